"""vLLM behind the engine's protocols: one instance makes vectors, one answers, or either alone."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from vllm.lora.request import LoRARequest

from model import AutoCompressor
from model.compressors import SegmentSummary
from server.engine.admission import Admission
from server.engine.answer import Answer
from server.engine.detokenizer import Detokenizer
from server.engine.protocol import Meter, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.engine.refusals import require_room, require_tokens
from server.engine.vllm import prompts, sampling
from server.engine.vllm.encoder import VllmEncoder
from server.engine.vllm.instance import Instance
from server.engine.vllm.observer import Watch
from server.errors import EngineFailed
from server.metrics import Metrics


class VllmEngine:
    """Implements `protocol.Engine`; of a role that is not served there are no instances (`engine.part`)."""

    def __init__(
        self,
        ends: AutoCompressor,
        *,
        pooling: Sequence[Instance],
        generating: Instance | None,
        adapter: LoRARequest | None,
        end_of_text: frozenset[int],
        max_sequence_tokens: int,
        max_requests: int,
        metrics: Metrics,
        aside: TemporaryDirectory[str] | None = None,
    ) -> None:
        """`ends`: what of the model is kept here. `pooling`: as `VllmEncoder` takes them. `adapter`: reads vectors.
        `aside`: files that the instances need until the end.
        """
        assert ends.tokenizer is not None
        self._ends, self._tokenizer = ends, ends.tokenizer
        self._generating, self._adapter = generating, adapter
        self._instances = [*pooling, *([] if generating is None else [generating])]
        self._encoder = VllmEncoder(ends, pooling) if pooling else None
        self._end_of_text = end_of_text
        self._max_sequence_tokens = max_sequence_tokens
        self._metrics = metrics
        self._aside = aside
        self._admission = Admission(max_requests, metrics.rejections.labels(reason="queue_full").inc)

    def start(self) -> None:
        """Open the instances, one after another; ValueError where one does not start, the others being closed."""
        try:
            for instance in self._instances:
                instance.open()
        except ValueError:
            self.stop()
            raise

    def stop(self) -> None:
        """End the instances; whoever still waits gets `NotReady`. Blocks until they have ended."""
        for instance in self._instances:
            instance.close()
        if self._aside is not None:
            self._aside.cleanup()

    @property
    def is_ready(self) -> bool:
        return all(instance.is_running for instance in self._instances)

    @property
    def is_full(self) -> bool:
        return self._admission.is_full

    @property
    def max_document_vectors(self) -> int | None:
        """None: vLLM pages keys and values, and positions alone set a limit."""
        return None

    async def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
        waits: bool = False,
    ) -> AsyncGenerator[SegmentSummary]:
        assert self._encoder is not None
        require_tokens(segments, "segment")
        watch = Watch(self._metrics, "segment", sum(map(len, segments)), meter)
        async with self._admission.place(waits=waits):
            watch.start()
            if self._ends.config.reads_alone:
                made = self._encoder.alone(segments)
            else:
                made = self._encoder.in_turn(segments, soft_prompt, salt=keys[0] if keys else None)
            async with aclosing(made) as summaries:
                async for summary in summaries:
                    self._metrics.summary_vectors.inc(len(summary))
                    yield summary

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, meter: Meter | None = None, waits: bool = False
    ) -> AsyncGenerator[TokenEvent]:
        assert self._generating is not None
        require_room(prompt, params.max_tokens, self._max_sequence_tokens)
        chosen = sampling.to_vllm(params, self._end_of_text)
        detokenizer = Detokenizer(self._tokenizer, prompt.token_ids, params.stop)
        answer = Answer(params, detokenizer, self._end_of_text)
        watch = Watch(self._metrics, "generate", len(prompt.token_ids), meter)
        made = prompts.to_vllm(prompt.soft_prompt, prompt.token_ids, salt=prompt.scope)
        async with self._admission.place(waits=waits):
            watch.start()
            async with aclosing(self._generating.generate(made, chosen, adapter=self._reader(prompt))) as outputs:
                async for output in outputs:
                    if not answer.num_tokens:
                        watch.known(output.num_cached_tokens or 0, _num_vectors(prompt))
                    for token_id, logprobs in _tokens(output):
                        event = self._event(answer, token_id, logprobs)
                        watch.token(event.finish_reason)
                        yield event
                        if event.finish_reason is not None:
                            return
        raise EngineFailed("vLLM ended a generation before its last token")

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        *,
        num_logprobs: int = 0,
        meter: Meter | None = None,
        waits: bool = False,
    ) -> list[TokenLogprobs]:
        assert self._generating is not None
        require_tokens(continuations, "continuation")
        require_room(prompt, max(map(len, continuations)), self._max_sequence_tokens)
        watch = Watch(self._metrics, "score", len(prompt.token_ids) + sum(map(len, continuations)), meter)
        async with self._admission.place(waits=waits):
            watch.start()
            tasks = [
                asyncio.create_task(self._scored(self._generating, prompt, ids, num_logprobs=num_logprobs))
                for ids in continuations
            ]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

    @torch.inference_mode()
    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return self._ends.embed(torch.tensor([list(token_ids)], dtype=torch.long))[0]

    async def _scored(
        self, instance: Instance, prompt: Prompt, continuation: Sequence[int], *, num_logprobs: int
    ) -> TokenLogprobs:
        *before, last = continuation
        made = prompts.to_vllm(prompt.soft_prompt, [*prompt.token_ids, *before], salt=prompt.scope)
        params = sampling.scoring(last, has_more=bool(before), num_logprobs=num_logprobs)
        rows: list[Any] = []
        async with aclosing(instance.generate(made, params, adapter=self._reader(prompt))) as outputs:
            async for output in outputs:
                if before:
                    rows += output.prompt_logprobs[prompt.num_positions :]
                rows += output.outputs[0].logprobs
        logprobs = tuple(row[token_id].logprob for row, token_id in zip(rows, continuation, strict=True))
        if any(value != value for value in logprobs):
            raise EngineFailed("the model's states are not finite")
        top = tuple(sampling.most_likely(row, num_logprobs) for row in rows)
        return TokenLogprobs(tuple(continuation), logprobs, top if num_logprobs else ())

    def _event(self, answer: Answer, token_id: int, logprobs: Any) -> TokenEvent:
        logprob = logprobs[token_id].logprob
        if logprob != logprob:
            raise EngineFailed("the model's states are not finite")
        try:
            return answer.add(token_id, logprob, sampling.most_likely(logprobs, answer.params.num_logprobs))
        except (KeyError, ValueError, TypeError, IndexError) as error:  # a tokenizer's: one request's trouble
            raise EngineFailed(f"the result failed: {type(error).__name__}") from error

    def _reader(self, prompt: Prompt) -> LoRARequest | None:
        return self._adapter if _num_vectors(prompt) else None


def _num_vectors(prompt: Prompt) -> int:
    return prompt.num_positions - len(prompt.token_ids)


def _tokens(output: Any) -> list[tuple[int, Any]]:
    """The new tokens of an output, each with vLLM's record of log-probabilities by token id."""
    completion = output.outputs[0]
    return list(zip(completion.token_ids, completion.logprobs or [], strict=True))
