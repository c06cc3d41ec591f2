"""The built-in engine: one thread owns the device; a step is schedule, run, deliver."""

import logging
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.engine.detokenizer import Decoder, Detokenizer
from server.engine.protocol import Meter, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.engine.torch.mailbox import Mailbox
from server.engine.torch.observer import EngineObserver
from server.engine.torch.prefix_cache import PrefixCache, running_hashes
from server.engine.torch.requests import Compression, Generation, Phase, Piece, Request, Scoring
from server.engine.torch.runner import BatchRunner
from server.engine.torch.sampler import Sampled, random_stream
from server.engine.torch.scheduler import Limits, Scheduler
from server.errors import EngineFailed, InvalidRequest, NotReady, Overloaded, ServiceError, TooLong
from server.metrics import Metrics

logger = logging.getLogger(__name__)
RequestT = TypeVar("RequestT", bound=Request)


class TorchEngine:
    """Implements `protocol.Engine` over a runner.

    A failed batch fails its own members; an error of the engine's own fails everyone waiting and ends readiness.
    """

    def __init__(
        self,
        runner: BatchRunner,
        limits: Limits,
        *,
        num_appended: int,
        accumulate_summary: bool,
        reads_alone: bool = False,
        end_of_text: frozenset[int],
        tokenizer: Decoder,
        metrics: Metrics,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self._runner = runner
        self._scheduler = Scheduler(limits, num_appended=num_appended, find_prefix=self._find_prefix)
        self._prefixes = PrefixCache(prefix_cache_bytes)
        self._accumulate_summary = accumulate_summary
        self._reads_alone = reads_alone
        self._end_of_text = end_of_text
        self._tokenizer = tokenizer
        self._observer = EngineObserver(metrics)
        self._work = threading.Condition()
        self._is_stopping = False
        self._has_cores = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, and return when it has taken as many cores as torch gives a thread by now."""
        self._thread.start()
        self._has_cores.wait()

    def stop(self) -> None:
        """End the thread after its step; whoever still waits gets `NotReady`. Blocks until it has ended."""
        with self._work:
            self._is_stopping = True
            self._work.notify()
        self._thread.join()

    @property
    def is_ready(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    @property
    def is_full(self) -> bool:
        return self._scheduler.is_full

    async def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
    ) -> AsyncGenerator[SegmentSummary]:
        if not segments or not all(segments):
            raise InvalidRequest("every segment needs at least 1 token")
        length = 0 if soft_prompt is None else soft_prompt.shape[0]
        mailbox = Mailbox()
        request = self._submit(
            Compression(
                mailbox.put,
                soft_prompt,
                length,
                segments,
                hashes=running_hashes(keys),
                meter=meter,
                reads_alone=self._reads_alone,
            )
        )
        try:
            for _ in segments:
                summary: SegmentSummary = await mailbox.get()
                yield summary
        finally:
            self._cancel(request)

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, meter: Meter | None = None
    ) -> AsyncGenerator[TokenEvent]:
        self._require_room(prompt, params.max_tokens)
        mailbox = Mailbox()
        request = self._submit(
            Generation(
                mailbox.put,
                prompt.soft_prompt,
                prompt.num_positions - len(prompt.token_ids),
                prompt.token_ids,
                params,
                Detokenizer(self._tokenizer, prompt.token_ids, params.stop),
                random_stream(params.seed),
                hashes=running_hashes(prompt.keys),
                lengths=prompt.key_lengths,
                meter=meter,
            )
        )
        try:
            is_finished = False
            while not is_finished:
                event: TokenEvent = await mailbox.get()
                is_finished = event.finish_reason is not None
                yield event
        finally:
            self._cancel(request)

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        *,
        num_logprobs: int = 0,
        meter: Meter | None = None,
    ) -> list[TokenLogprobs]:
        if not continuations or not all(continuations):
            raise InvalidRequest("every continuation needs at least 1 token")
        self._require_room(prompt, 1)
        mailbox = Mailbox()
        request = self._submit(
            Scoring(
                mailbox.put,
                prompt.soft_prompt,
                prompt.num_positions - len(prompt.token_ids),
                prompt.token_ids,
                [tuple(ids) for ids in continuations],
                num_logprobs=num_logprobs,
                hashes=running_hashes(prompt.keys),
                lengths=prompt.key_lengths,
                meter=meter,
            )
        )
        try:
            results: list[TokenLogprobs] = await mailbox.get()
            return results
        finally:
            self._cancel(request)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return self._runner.embed(token_ids)

    def _require_room(self, prompt: Prompt, num_new: int) -> None:
        limit = self._scheduler.limits.max_sequence_tokens
        if not prompt.token_ids:
            raise InvalidRequest("the prompt needs at least 1 token")
        # the last new token is never read, so it needs no position
        if prompt.num_positions + num_new - 1 > limit:
            raise TooLong(f"{prompt.num_positions} prompt positions and {num_new} new tokens exceed a row's {limit}")

    def _submit(self, request: RequestT) -> RequestT:
        with self._work:
            if not self.is_ready:
                raise NotReady("the engine is not running")
            if self._scheduler.is_full:
                self._observer.rejection()
                limit = self._scheduler.limits.max_requests
                raise Overloaded(f"the engine already holds its limit of {limit} requests")
            self._scheduler.submit(request)
            self._work.notify()
        return request

    def _cancel(self, request: Request) -> None:
        """Free what a request holds at the next step; nothing where it has ended."""
        with self._work:
            request.is_cancelled = True
            self._work.notify()

    def _serve(self) -> None:
        fate: ServiceError = EngineFailed("the engine has failed; the server has to be restarted")
        torch.get_num_threads()  # torch sets a thread's number when it first asks
        self._has_cores.set()
        try:
            while batch := self._next_batch():
                self._step(*batch)
            fate = NotReady("the server is stopping")
        except Exception:
            logger.exception("the engine has failed")
        finally:
            self._fail_all(fate)

    def _next_batch(self) -> tuple[list[Piece], list[tuple[int, int, int]]] | None:
        """Wait for work, and what is to be moved before it; None when the engine stops."""
        with self._work:
            while not self._is_stopping:
                pieces = self._scheduler.schedule()
                self._observer.load(self._scheduler)
                if pieces:
                    return pieces, self._scheduler.take_moves()
                self._work.wait()
        return None

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
        """Give a request what is known of its soft prompt: so many positions."""
        found = self._prefixes.find(request.given_hashes)
        request.prefix, num_known = (None, 0) if found is None else (found[0].strip, found[1])
        return num_known

    def _remember(self, piece: Piece, result: Any) -> None:
        """Keep the keys and values of a soft prompt, for whoever reads it next."""
        request, hashes = piece.request, piece.request.read_hashes
        if isinstance(result, ServiceError) or piece.phase is Phase.DECODE or not hashes or self._prefixes.has(hashes):
            return
        strip = self._runner.soft_prompt_strip(request)
        if strip is not None:
            share = request.soft_prompt_length // len(hashes)
            lengths = request.lengths or [share] * len(hashes)
            self._prefixes.put(hashes, list(accumulate(lengths)), strip)

    def _deliver(self, piece: Piece, result: Any) -> None:
        request = piece.request
        if isinstance(result, ServiceError):
            self._finish(request, result)
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

    def _fail_all(self, error: Exception) -> None:
        with self._work:
            self._is_stopping = True
            waiting = self._scheduler.requests
            for request in waiting:
                self._scheduler.remove(request)
        for request in waiting:
            request.deliver(error)
