"""An engine whose work is charged to whoever it is done for."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from model.compressors import SegmentSummary
from server.core.callers.visit import charge
from server.engine.forwarding import Forwarding
from server.engine.protocol import Prompt, SamplingParams, TokenEvent, TokenLogprobs


class Charged(Forwarding):
    """The engine, its work charged as it is asked for: positions to read at once, tokens as they are written."""

    async def compress(self, segments: Sequence[Sequence[int]], **more: Any) -> AsyncGenerator[SegmentSummary]:
        lengths = iter([len(segment) for segment in segments])
        async with aclosing(super().compress(segments, **more)) as summaries:
            async for summary in summaries:
                charge(next(lengths))
                yield summary

    async def generate(self, prompt: Prompt, params: SamplingParams, **more: Any) -> AsyncGenerator[TokenEvent]:
        is_read = False
        async with aclosing(super().generate(prompt, params, **more)) as events:
            async for event in events:
                charge(1 if is_read else 1 + prompt.num_positions)
                is_read = True
                yield event

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]], **more: Any) -> list[TokenLogprobs]:
        scored = await super().score(prompt, continuations, **more)
        charge(prompt.num_positions + sum(map(len, continuations)))
        return scored
