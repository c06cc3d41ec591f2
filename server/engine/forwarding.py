"""An engine in front of another, which a subclass changes where it has to."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from torch import Tensor

from model.compressors import SegmentSummary
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent, TokenLogprobs


class Forwarding:
    """Implements `protocol.Engine` by the engine that it is given."""

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

    def compress(self, segments: Sequence[Sequence[int]], **more: Any) -> AsyncGenerator[SegmentSummary]:
        return self._engine.compress(segments, **more)

    def generate(self, prompt: Prompt, params: SamplingParams, **more: Any) -> AsyncGenerator[TokenEvent]:
        return self._engine.generate(prompt, params, **more)

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]], **more: Any) -> list[TokenLogprobs]:
        return await self._engine.score(prompt, continuations, **more)
