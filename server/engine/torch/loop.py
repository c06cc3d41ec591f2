"""What one engine does in its turns on the thread that has the device: a step is schedule, run, deliver."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from model.compressors import SegmentSummary
from server.engine.torch.observer import EngineObserver
from server.engine.torch.prefix_cache import PrefixCache
from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.runner import BatchRunner
from server.engine.torch.sampler import Sampled
from server.engine.torch.scheduler import Limits, Scheduler
from server.engine.torch.turns import Turns
from server.errors import EngineFailed, NotReady, ServiceError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_RESTS = 10.0


class EngineLoop:
    """Runs what is submitted, a step in each of its turns.

    A failed batch fails its own members; an error of the loop's own fails everyone waiting and ends its turns.
    """

    def __init__(
        self,
        runner: BatchRunner,
        limits: Limits,
        *,
        num_appended: int,
        accumulate_summary: bool,
        end_of_text: frozenset[int],
        observer: EngineObserver,
        prefix_cache_bytes: int,
        turns: Turns,
        name: str,
    ) -> None:
        """`name`: of the engine, for the log."""
        self.name = name
        self._runner = runner
        self._scheduler = Scheduler(limits, num_appended=num_appended, find_prefix=self._find_prefix)
        self._prefixes = PrefixCache(prefix_cache_bytes)
        self._accumulate_summary = accumulate_summary
        self._end_of_text = end_of_text
        self._observer = observer
        self._turns, self._work = turns, turns.work
        self._is_running = False
        self._awake_since: float | None = None  # the first step after the last rest; None where there was none

    def start(self) -> None:
        """Begin to have turns; the thread that gives them has its cores by then."""
        self._is_running = True
        self._turns.join(self)

    def stop(self) -> None:
        """Have no more turns after this one; whoever still waits gets `NotReady`. Blocks until then."""
        with self._work:
            self._is_running = False
            self._work.notify_all()
        self._turns.wait_until_left(self)

    @property
    def is_running(self) -> bool:
        return self._is_running

    def submit(self, request: Request) -> None:
        """Put a request into the line; NotReady where none is served any more."""
        with self._work:
            if not self.is_running:
                raise NotReady("the engine is not running")
            self._scheduler.submit(request)
            self._work.notify_all()

    def cancel(self, request: Request) -> None:
        """Free what a request holds at the next step; nothing where it has ended."""
        with self._work:
            request.is_cancelled = True
            self._work.notify_all()

    def next_turn(self) -> Callable[[], None] | None:
        """A step, a rest, the end, or None where there is nothing to do."""
        if not self._is_running:
            return partial(self.end, NotReady("the server is stopping"))
        if self.seconds_to_turn() == 0:
            self._awake_since = None
            return self._runner.rest
        pieces = self._scheduler.schedule()
        self._observer.load(self._scheduler)
        if not pieces:
            return None
        self._awake_since = self._awake_since or time.monotonic()
        return partial(self._step, pieces, self._scheduler.take_moves())

    def seconds_to_turn(self) -> float | None:
        """How long until what steps freed is given back, whether others wait or not; None where there were none."""
        if self._awake_since is None:
            return None
        return max(0.0, self._awake_since + SECONDS_BETWEEN_RESTS - time.monotonic())

    def _step(self, pieces: Sequence[Piece], moves: Sequence[tuple[int, int, int]]) -> None:
        started = time.monotonic()
        new = {id(piece.request): piece.request for piece in pieces if piece.request.started_at is None}
        for piece in pieces:
            self._observer.start(piece, started)
        try:
            for move in moves:
                self._runner.move(*move)
            for request in new.values():
                self._runner.prepare(request)
            results = self._runner.run(pieces)
        except torch.AcceleratorError:
            raise  # a device after an illegal access, say, answers nothing more: this ends the engine
        except Exception as error:  # the batch's members share its fate, the engine does not
            logger.exception("a batch of %d pieces failed", len(pieces))
            for request in {id(piece.request): piece.request for piece in pieces}.values():
                self._finish(request, EngineFailed(f"the forward pass failed: {type(error).__name__}"))
            return
        self._observer.step(pieces, time.monotonic() - started)
        for piece, result in zip(pieces, results, strict=True):
            if piece.request.is_ended:  # by an earlier piece of this batch that failed
                continue
            with self._work:
                self._scheduler.complete(piece)
            try:
                self._remember(piece, result)
                self._deliver(piece, result)
            except Exception as error:  # a tokenizer's, say: one request's trouble
                if piece.request.is_ended:
                    raise
                logger.exception("a %s of one request failed", piece.phase.value)
                self._finish(piece.request, EngineFailed(f"the result failed: {type(error).__name__}"))

    def _find_prefix(self, request: Request) -> int:
        """Give a request what is known of its beginning: so many positions.

        Of a prompt's soft prompt all or nothing: read on from a part, it would not be what it is read as a whole, to
        the bit.
        """
        found = self._prefixes.find(request.given_hashes)
        is_part = found is not None and found[1] < request.soft_prompt_length and not isinstance(request, Compression)
        request.prefix, num_known = (None, 0) if found is None or is_part else (found[0].strip, found[1])
        return num_known

    def _remember(self, piece: Piece, result: Any) -> None:
        """Keep the keys and values of what a prompt begins with, for whoever reads it next."""
        request, hashes = piece.request, piece.request.read_hashes
        is_read = piece.phase in (Phase.VECTORS, Phase.BLOCK, Phase.SEGMENT) and not isinstance(result, ServiceError)
        if not is_read or not hashes or self._prefixes.has(hashes):
            return
        strip = self._runner.strip_to_keep(request)
        if strip is not None:
            share = request.soft_prompt_length // len(hashes)
            lengths = request.lengths[: len(hashes)] or [share] * len(hashes)
            self._prefixes.put(hashes, list(accumulate(lengths)), strip)
            self._observer.prefix_bytes(self._prefixes.num_bytes)

    def _deliver(self, piece: Piece, result: Any) -> None:
        request = piece.request
        if isinstance(result, ServiceError):
            self._finish(request, result)
        elif piece.phase in (Phase.VECTORS, Phase.BLOCK):
            return
        elif isinstance(request, Compression):
            self._deliver_summary(request, result, is_last=piece.index + 1 == len(request.segments))
        elif isinstance(request, Scoring) and piece.phase is Phase.SCORE:
            request.results[piece.index] = result
            if len(request.results) == len(request.continuations):
                self._finish(request, [request.results[index] for index in range(len(request.continuations))])
        elif isinstance(request, Generation):
            self._deliver_token(request, result)

    def _deliver_summary(self, request: Compression, summary: SegmentSummary, *, is_last: bool) -> None:
        if not request.reads_alone:
            is_first = request.soft_prompt is None or not self._accumulate_summary
            vectors = summary.vectors
            request.soft_prompt = vectors if is_first else torch.cat([request.soft_prompt, vectors])
            request.soft_prompt_length = request.soft_prompt.shape[0]
        self._observer.vectors(len(summary))
        if is_last:
            self._finish(request, summary)
        else:
            request.deliver(summary)

    def _deliver_token(self, request: Generation, sampled: Sampled) -> None:
        event = request.take(sampled, self._end_of_text)
        self._observer.token(request, event.finish_reason)
        if event.finish_reason is None:
            request.deliver(event)
        else:
            self._finish(request, event)

    def _finish(self, request: Request, result: Any) -> None:
        request.is_ended = True
        with self._work:
            self._scheduler.remove(request)
        request.deliver(result)

    def end(self, error: ServiceError) -> None:
        """Leave, and fail all who wait."""
        with self._work:
            self._is_running = False
            waiting = self._scheduler.requests
            for request in waiting:
                self._scheduler.remove(request)
            self._observer.load(self._scheduler)
        for request in waiting:
            request.deliver(error)
        self._turns.leave(self)
