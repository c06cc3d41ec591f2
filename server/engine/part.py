"""An engine of which one role alone is served, so that compressing and generating scale apart."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from torch import Tensor

from model.compressors import SegmentSummary
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.errors import NotServed

Role = Literal["compress", "generate"]


class Part:
    """Implements `protocol.Engine` for its role; calls of the other one raise `NotServed` before any work."""

    def __init__(self, engine: Engine, role: Role) -> None:
        self._engine = engine
        self._role = role

    @property
    def is_ready(self) -> bool:
        return self._engine.is_ready

    @property
    def is_full(self) -> bool:
        return self._engine.is_full

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        return self._engine.embed(token_ids)

    async def compress(self, segments: Sequence[Sequence[int]], **more: Any) -> AsyncGenerator[SegmentSummary]:
        self._require("compress")
        async with aclosing(self._engine.compress(segments, **more)) as summaries:
            async for summary in summaries:
                yield summary

    async def generate(self, prompt: Prompt, params: SamplingParams, **more: Any) -> AsyncGenerator[TokenEvent]:
        self._require("generate")
        async with aclosing(self._engine.generate(prompt, params, **more)) as events:
            async for event in events:
                yield event

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]], **more: Any) -> list[TokenLogprobs]:
        self._require("generate")
        return await self._engine.score(prompt, continuations, **more)

    def _require(self, role: Role) -> None:
        if role != self._role:
            raise NotServed(f"this server's role is {self._role!r}: another one does what this call needs, {role!r}")
