"""How much keys and values of what is being read may take, counted in positions of strips."""

from dataclasses import dataclass

from server.engine.torch.requests import Compression, Request

BULK_SHARE = 4  # of the documents' positions, so many parts; one of them is never given to those who are in no hurry


@dataclass
class _Share:
    """At most so many positions, None for any number, of which some are held; `is_waited_for` by one that found none.

    `fits_one`: a single one may exceed it.
    """

    max_positions: int | None
    fits_one: bool = False
    num_held: int = 0
    is_waited_for: bool = False

    def has_room(self, num_positions: int) -> bool:
        if self.is_waited_for:
            return False
        is_alone = self.fits_one and not self.num_held
        return self.max_positions is None or is_alone or self.num_held + num_positions <= self.max_positions


class StripBudget:
    """Documents and prompts hold positions of their own, each kind up to its number of them.

    Whoever finds no room waits, and nobody of his kind who needs some passes him: it comes, as those who hold it end
    without needing more. Documents in no hurry leave a part to the others, who may pass them; one that is larger
    than their part has it when it is alone.
    """

    def __init__(self, max_document_positions: int | None, max_prompt_positions: int | None) -> None:
        bulk = None
        if max_document_positions is not None:
            bulk = max_document_positions - max_document_positions // BULK_SHARE
        self._documents, self._prompts = _Share(max_document_positions), _Share(max_prompt_positions)
        self._bulk = _Share(bulk, fits_one=True)
        self._held: dict[int, int] = {}  # by identity of the request, which is in the line until it is freed

    def begin(self) -> None:
        """Go through the line from its beginning."""
        for share in (self._documents, self._prompts, self._bulk):
            share.is_waited_for = False

    def has_room(self, request: Request) -> bool:
        """Whether a request that has not begun may; else it is waited for by those of its kind that come after."""
        if not request.strip_length:
            return True
        for share in self._shares(request):
            if not share.has_room(request.strip_length):
                share.is_waited_for = True
                return False
        return True

    def take(self, request: Request) -> None:
        """Count what a request holds from now on."""
        self._held[id(request)] = request.strip_length
        for share in self._shares(request):
            share.num_held += request.strip_length

    def free(self, request: Request) -> None:
        """What a request held, if anything, is no more."""
        num_positions = self._held.pop(id(request), 0)
        for share in self._shares(request):
            share.num_held -= num_positions

    def _shares(self, request: Request) -> tuple[_Share, ...]:
        if not isinstance(request, Compression):
            return (self._prompts,)
        return (self._bulk, self._documents) if request.is_bulk else (self._documents,)
