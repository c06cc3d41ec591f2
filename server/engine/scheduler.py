"""Who runs next: plain Python, no tensors, no threads, no clock."""

import heapq
from collections import deque
from dataclasses import dataclass

from server.engine.requests import Compression, Generation, Phase, Piece, Request, Scoring


@dataclass(frozen=True)
class Limits:
    """What the engine takes.

    Attributes:
        max_running: rows of the KV pool. max_sequence_tokens: positions of a row.
        max_requests: held in all, running or not. max_batch_tokens: positions in one step.
    """

    max_running: int
    max_sequence_tokens: int
    max_requests: int
    max_batch_tokens: int


class Scheduler:
    """Fills each step's batch under a budget of positions.

    Running generations come first, one token each, so no document starves them. Then waiting requests in the order of
    their arrival: a prompt, the next segment of a document, the continuations to score. One that has more left goes to
    the back of the line. The line is cut at the first piece over budget rather than searched for a smaller one, so
    that a large piece is not passed for ever; a piece larger than the whole budget runs beside nothing but decodes.
    """

    def __init__(self, limits: Limits, *, summary_length: int) -> None:
        self.limits = limits
        self._summary_length = summary_length
        self._waiting: deque[Request] = deque()
        self._running: list[Generation] = []
        self._free_rows = list(range(limits.max_running))

    @property
    def num_requests(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(request.started_at is None for request in self._waiting)

    @property
    def is_full(self) -> bool:
        return self.num_requests >= self.limits.max_requests

    @property
    def requests(self) -> list[Request]:
        return [*self._running, *self._waiting]

    def submit(self, request: Request) -> None:
        """Join the line. The caller has looked at `is_full`."""
        self._waiting.append(request)

    def schedule(self) -> list[Piece]:
        """The next batch, empty when nothing is left to do; cancelled requests are dropped first."""
        for request in self.requests:
            if request.is_cancelled:
                self.remove(request)
        pieces = [Piece(sequence, Phase.DECODE, 1) for sequence in self._running]
        budget = self.limits.max_batch_tokens - len(pieces)
        has_new = False
        for request in list(self._waiting):
            if isinstance(request, Generation) and not self._free_rows:
                continue  # waits for a row; documents behind it need none
            for piece in self._pieces(request):
                if piece.num_positions > budget and has_new:
                    return pieces
                self._start(request)
                pieces.append(piece)
                budget -= piece.num_positions
                has_new = True
        return pieces

    def complete(self, piece: Piece) -> None:
        """Account for a piece that ran; the request stays until `remove`."""
        request = piece.request
        if isinstance(request, Compression):
            request.next_segment += 1
        elif isinstance(request, Scoring):
            request.next_continuation += 1
        elif isinstance(request, Generation):
            request.num_cached += piece.num_positions
            return
        self._waiting.remove(request)
        self._waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, finished, failed or cancelled, and free its row; once only."""
        if isinstance(request, Generation) and request.row is not None:
            self._running.remove(request)
            heapq.heappush(self._free_rows, request.row)
            request.row = None
        else:
            self._waiting.remove(request)

    def _pieces(self, request: Request) -> list[Piece]:
        """What of a waiting request could run now."""
        if isinstance(request, Generation):
            return [Piece(request, Phase.PREFILL, request.num_prompt_positions)]
        if isinstance(request, Compression):
            index = request.next_segment
            num_positions = request.soft_prompt_length + len(request.segments[index]) + self._summary_length
            return [Piece(request, Phase.SEGMENT, num_positions, index)]
        assert isinstance(request, Scoring)
        before = request.soft_prompt_length + len(request.prompt_ids)
        return [
            # the last token of a continuation predicts nothing that is asked for
            Piece(request, Phase.SCORE, before + len(request.continuations[index]) - 1, index)
            for index in range(request.next_continuation, len(request.continuations))
        ]

    def _start(self, request: Request) -> None:
        if isinstance(request, Generation):
            self._waiting.remove(request)
            request.row = heapq.heappop(self._free_rows)
            self._running.append(request)
