"""An engine whose work is charged to whoever it is done for."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from torch import Tensor

from model.compressors import SegmentSummary
from server.core.callers.visit import charge
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent, TokenLogprobs


class Charged:
    """An engine, its work charged as it is asked for: positions to read at once, tokens as they are written."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def is_ready(self) -> bool:
        return self._engine.is_ready

    @property
    def is_full(self) -> bool:
        return self._engine.is_full

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return self._engine.embed(token_ids)

    async def compress(self, segments: Sequence[Sequence[int]], **more: Any) -> AsyncGenerator[SegmentSummary]:
        lengths = iter([len(segment) for segment in segments])
        async with aclosing(self._engine.compress(segments, **more)) as summaries:
            async for summary in summaries:
                charge(next(lengths))
                yield summary

    async def generate(self, prompt: Prompt, params: SamplingParams, **more: Any) -> AsyncGenerator[TokenEvent]:
        is_read = False
        async with aclosing(self._engine.generate(prompt, params, **more)) as events:
            async for event in events:
                charge(1 if is_read else 1 + prompt.num_positions)
                is_read = True
                yield event

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]], **more: Any) -> list[TokenLogprobs]:
        scored = await self._engine.score(prompt, continuations, **more)
        charge(prompt.num_positions + sum(map(len, continuations)))
        return scored
