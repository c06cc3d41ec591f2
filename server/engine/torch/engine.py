"""The built-in engine: its calls, on an event loop; `loop.py` runs them in its turns on the device's thread."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from torch import Tensor

from model.compressors import SegmentSummary
from server.engine.admission import Admission
from server.engine.detokenizer import Detokenizer, Tokenizer
from server.engine.protocol import Meter, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.engine.refusals import require_room, require_tokens
from server.engine.torch.loop import EngineLoop
from server.engine.torch.mailbox import Mailbox
from server.engine.torch.observer import EngineObserver
from server.engine.torch.prefix_cache import parts_of, running_hashes
from server.engine.torch.requests import Compression, Generation, Request, Scoring
from server.engine.torch.runner import BatchRunner
from server.engine.torch.sampler import Bias, random_stream
from server.engine.torch.scheduler import Limits
from server.engine.torch.turns import Turns
from server.errors import TooLong
from server.metrics import Metrics


class TorchEngine:
    """Implements `protocol.Engine` over a runner.

    A failed batch fails its own members; an error of the thread's own fails everyone waiting and ends readiness.
    """

    def __init__(
        self,
        runner: BatchRunner,
        limits: Limits,
        *,
        max_requests: int,
        num_appended: int,
        accumulate_summary: bool,
        reads_alone: bool = False,
        end_of_text: frozenset[int],
        tokenizer: Tokenizer,
        metrics: Metrics,
        prefix_cache_bytes: int = 0,
        turns: Turns | None = None,
        name: str = "the engine",
    ) -> None:
        """Args:
        turns: with other engines of the device, whose thread runs them all; None for a thread of its own.
        name: for the log.
        """
        self._runner = runner
        self._limits = limits
        self._reads_alone = reads_alone
        # vectors of a segment that later ones read from the document's strip
        self._num_kept = 0 if reads_alone or not accumulate_summary else num_appended
        self._tokenizer = tokenizer
        turns = turns or Turns(metrics)
        observer = EngineObserver(metrics, turns.loads)
        self._admission = Admission(max_requests, observer.rejection)
        self._loop = EngineLoop(
            runner,
            limits,
            num_appended=num_appended,
            accumulate_summary=accumulate_summary,
            end_of_text=end_of_text,
            observer=observer,
            prefix_cache_bytes=prefix_cache_bytes,
            turns=turns,
            name=name,
        )

    def start(self) -> None:
        """Begin to serve; the thread has taken as many cores by then as torch gives one by now."""
        self._loop.start()

    def stop(self) -> None:
        """End after this step; whoever still waits gets `NotReady`. Blocks until then, and until a thread of its own,
        or one whose other engines have ended, has ended too.
        """
        self._loop.stop()

    @property
    def is_ready(self) -> bool:
        return self._loop.is_running

    @property
    def is_full(self) -> bool:
        return self._admission.is_full

    @property
    def max_document_vectors(self) -> int | None:
        """How many vectors of a document there is memory for before its last segment; None for any number."""
        return self._limits.max_document_positions if self._num_kept else None

    async def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
        waits: bool = False,
    ) -> AsyncGenerator[SegmentSummary]:
        require_tokens(segments, "segment")
        length = 0 if soft_prompt is None else soft_prompt.shape[0]
        strip_length = length + self._num_kept * (len(segments) - 1) if self._num_kept else 0
        most = self._limits.max_document_positions
        if most is not None and strip_length > most:
            raise TooLong(f"{strip_length} vectors before the last segment exceed the {most} there is memory for")
        mailbox = Mailbox()
        request = Compression(
            mailbox.put,
            soft_prompt,
            length,
            segments,
            # a document reads its vectors beside its segments, a prompt reads its own by themselves: low-precision
            # arithmetic gives other keys and values, and a prompt's are to be the same whatever came before it
            hashes=running_hashes([f"compressing:{key}" for key in keys]),
            meter=meter,
            strip_length=strip_length,
            reads_alone=self._reads_alone,
            is_bulk=waits,
        )
        async with self._running(request, waits=waits):
            for _ in segments:
                summary: SegmentSummary = await mailbox.get()
                yield summary

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, meter: Meter | None = None, waits: bool = False
    ) -> AsyncGenerator[TokenEvent]:
        require_room(prompt, params.max_tokens, self._limits.max_sequence_tokens)
        names, lengths = parts_of(prompt, self._limits.block_tokens, self._limits.max_kept_positions)
        mailbox = Mailbox()
        request = Generation(
            mailbox.put,
            prompt.soft_prompt,
            prompt.num_positions - len(prompt.token_ids),
            prompt.token_ids,
            params,
            Detokenizer(self._tokenizer, prompt.token_ids, params.stop),
            random_stream(params.seed),
            Bias.of(params),
            hashes=running_hashes(names),
            lengths=lengths,
            num_blocks=len(names) - len(prompt.keys) if names else 0,
            block_tokens=self._limits.block_tokens,
            meter=meter,
        )
        async with self._running(request, waits=waits):
            is_finished = False
            while not is_finished:
                event: TokenEvent = await mailbox.get()
                is_finished = event.finish_reason is not None
                yield event

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        *,
        num_logprobs: int = 0,
        meter: Meter | None = None,
        waits: bool = False,
    ) -> list[TokenLogprobs]:
        require_tokens(continuations, "continuation")
        require_room(prompt, 1, self._limits.max_sequence_tokens)
        mailbox = Mailbox()
        request = Scoring(
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
        async with self._running(request, waits=waits):
            results: list[TokenLogprobs] = await mailbox.get()
            return results

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return self._runner.embed(token_ids)

    @asynccontextmanager
    async def _running(self, request: Request, *, waits: bool = False) -> AsyncIterator[None]:
        """Have a request served while the body takes its results; it ends with the body, if not before."""
        async with self._admission.place(waits=waits):
            self._loop.submit(request)
            try:
                yield
            finally:
                self._loop.cancel(request)
