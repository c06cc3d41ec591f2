"""Who runs next: plain Python, no tensors, no threads, no clock."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.strip_budget import StripBudget


@dataclass(frozen=True)
class Limits:
    """What the engine takes.

    Attributes:
        max_running: rows of the KV pool. max_sequence_tokens: positions of a row.
        max_batch_tokens: positions in one step.
        segments_together: of one document whose segments are read alone, in one step. More than keep the device busy
            gain nothing, and those who decode beside them wait.
        segments_beside: of all documents, in one step while there are generations; None for any number.
        block_tokens: of a prompt, kept together. max_kept_positions: of a prompt's beginning that is kept, at most; 0
            for nothing. blocks_together: of one prompt, in one step.
        max_document_positions: of the strips of all documents that have begun and not ended; a longer one can never
            run. max_prompt_positions: likewise of prompts that have no row, at least as many as a row's. None for any
            number.
    """

    max_running: int
    max_sequence_tokens: int
    max_batch_tokens: int
    segments_together: int = 1
    segments_beside: int | None = None
    block_tokens: int = 128
    max_kept_positions: int = 0
    blocks_together: int = 4
    max_document_positions: int | None = None
    max_prompt_positions: int | None = None


class Scheduler:
    """Fills each step's batch under a budget of positions.

    Running generations come first, one token each, so no document starves them, and only so many segments run while
    there are any as the limits say, however many documents there are. Then waiting requests in the order of their
    arrival: a prompt, the next segment of a document, the continuations to score. One that has more left goes to the
    back of the line. The line is cut at the first piece over budget rather than searched for a smaller one, so that a
    large piece is not passed for ever; a piece larger than the whole budget runs beside nothing but decodes.
    Before its first piece a request waits until there is room for its strip (`StripBudget`); others pass it meanwhile.

    Rows of the pool that run are always the first ones: where one ends, the last takes its place (`take_moves`).
    """

    def __init__(
        self, limits: Limits, *, num_appended: int, find_prefix: Callable[[Request], int] = lambda _: 0
    ) -> None:
        """Args:
        num_appended: positions after a segment that is compressed.
        find_prefix: sets `prefix` of a request whose turn has come; how many positions it has.
        """
        self.limits = limits
        self._num_appended = num_appended
        self._find_prefix = find_prefix
        self._waiting: deque[Request] = deque()
        self._running: list[Generation] = []
        self._strips = StripBudget(limits.max_document_positions, limits.max_prompt_positions)
        self._moves: list[tuple[int, int, Generation]] = []

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(request.started_at is None for request in self._waiting)

    @property
    def requests(self) -> list[Request]:
        return [*self._running, *self._waiting]

    def submit(self, request: Request) -> None:
        """Join the line."""
        self._waiting.append(request)

    def schedule(self) -> list[Piece]:
        """The next batch, empty when nothing is left to do; cancelled requests are dropped first."""
        for request in self.requests:
            if request.is_cancelled:
                self.remove(request)
        pieces = [Piece(sequence, Phase.DECODE, 1) for sequence in self._running]
        budget = self.limits.max_batch_tokens - len(pieces)
        is_generating = any(isinstance(request, Generation) for request in self.requests)
        has_new, segments_left = False, self.limits.segments_beside if is_generating else None
        self._strips.begin()
        being_read: set[str] = set()  # beginnings of prompts that this batch reads for all who come after
        for request in list(self._waiting):
            if isinstance(request, Generation) and len(self._running) == self.limits.max_running:
                continue  # waits for a row; documents behind it need none
            if isinstance(request, Compression) and segments_left == 0:
                continue  # the next steps are its turn; prompts behind it pass
            if not request.is_started:
                if not self._strips.has_room(request):
                    continue
                self._know(request, self._find_prefix(request))
                if not being_read.isdisjoint(self._reads_next(request)):
                    continue
            being_read.update(self._reads_next(request))
            for piece in self._pieces(request)[: segments_left if isinstance(request, Compression) else None]:
                if piece.num_positions > budget and has_new:
                    return pieces
                self._start(piece)
                pieces.append(piece)
                budget -= piece.num_positions
                has_new = True
                if segments_left is not None and piece.phase is Phase.SEGMENT:
                    segments_left -= 1
        return pieces

    def take_moves(self) -> list[tuple[int, int, int]]:
        """What is to be done to the pool before the batch, in order: from row, to row, how many positions."""
        moves, self._moves = self._moves, []
        return [(source, target, request.num_known) for source, target, request in moves]

    def complete(self, piece: Piece) -> None:
        """Account for a piece that ran; the request stays until `remove`."""
        request = piece.request
        if piece.phase in (Phase.VECTORS, Phase.BLOCK):
            self._know(request, request.num_known + piece.num_positions)
            return
        if isinstance(request, Generation):
            request.num_known += piece.num_positions
            if piece.phase is Phase.PREFILL:  # not before: its strip was there in the pass that copied it
                self._strips.free(request)
            return
        if isinstance(request, Compression):
            request.next_segment += 1
            if request.line is not None:
                request.num_known = request.soft_prompt_length
        elif isinstance(request, Scoring) and piece.phase is Phase.SCORE:
            request.next_continuation += 1
        elif isinstance(request, Scoring):
            request.num_known = request.num_shared_positions
        self._waiting.remove(request)
        self._waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, finished, failed or cancelled, and free its row and its strip; once only."""
        self._strips.free(request)
        request.line = request.prefix = None  # whoever waits for it may keep the request for long
        if not isinstance(request, Generation) or request.row is None:
            self._waiting.remove(request)
            return
        row, last = request.row, self._running.pop()
        if last is not request:
            assert last.row is not None
            self._moves.append((last.row, row, last))
            last.row = row
            self._running[row] = last
        request.row = None

    def _reads_vectors(self, request: Request) -> bool:
        """Whether a prompt's soft prompt is still to be read: in a pass of its own, so that what is kept of it for the
        next prompt (`PrefixCache`) is what this one reads, to the bit.
        """
        return not isinstance(request, Compression) and not request.has_vectors

    def _reads_next(self, request: Request) -> Sequence[str]:
        """The hashes of what a request reads now and others may wait for."""
        if self._reads_vectors(request):
            own = request.hashes_to(0) if isinstance(request, Generation) else request.hashes
            return own[-1:]
        if isinstance(request, Generation):
            blocks = request.next_blocks(self.limits.blocks_together)
            return request.hashes_to(blocks.stop)[len(request.hashes_to(blocks.start)) :]
        return ()

    def _know(self, request: Request, num_positions: int) -> None:
        """Account for so many leading positions of a soft prompt that were read.

        Where no token follows the vectors, the last of them is read once more, after all others: what comes next is
        drawn from its state, which is not kept, so that it is the same whoever read them before.
        """
        request.has_vectors = num_positions >= request.soft_prompt_length
        if isinstance(request, Generation | Scoring):
            num_positions = min(num_positions, request.num_prompt_positions - 1)
        request.num_known = num_positions

    def _pieces(self, request: Request) -> list[Piece]:
        """What of a waiting request could run now."""
        known = request.num_known
        if self._reads_vectors(request):
            return [Piece(request, Phase.VECTORS, request.soft_prompt_length - known)]
        if isinstance(request, Generation):
            if blocks := request.next_blocks(self.limits.blocks_together):
                return [Piece(request, Phase.BLOCK, request.block_tokens, index) for index in blocks]
            return [Piece(request, Phase.PREFILL, request.num_prompt_positions - known)]
        if isinstance(request, Compression):
            first = request.next_segment
            last = first + (self.limits.segments_together if request.reads_alone else 1)
            before = request.soft_prompt_length + self._num_appended - known
            return [
                Piece(request, Phase.SEGMENT, before + len(segment), first + index)
                for index, segment in enumerate(request.segments[first:last])
            ]
        assert isinstance(request, Scoring)
        shared = request.num_shared_positions
        if len(request.continuations) > 1 and known < shared:
            return [Piece(request, Phase.PROMPT, shared - known)]
        return [
            # the last token of a continuation predicts nothing that is asked for
            Piece(request, Phase.SCORE, shared + len(request.continuations[index]) - known, index)
            for index in range(request.next_continuation, len(request.continuations))
        ]

    def _start(self, piece: Piece) -> None:
        request = piece.request
        if not request.is_started:
            request.is_started = True
            self._strips.take(request)
        if isinstance(request, Generation) and piece.phase is Phase.PREFILL:
            self._waiting.remove(request)
            request.row = len(self._running)
            self._running.append(request)
