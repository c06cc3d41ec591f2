"""An engine of which one role alone is served, so that compressing and generating scale apart."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from model.compressors import SegmentSummary
from server.engine.forwarding import Forwarding
from server.engine.protocol import Engine, Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.errors import NotServed

Role = Literal["compress", "generate"]


class Part(Forwarding):
    """The engine for its role; calls of the other one raise `NotServed` before any work."""

    def __init__(self, engine: Engine, role: Role) -> None:
        super().__init__(engine)
        self._role = role

    def compress(self, segments: Sequence[Sequence[int]], **more: Any) -> AsyncGenerator[SegmentSummary]:
        self._require("compress")
        return super().compress(segments, **more)

    def generate(self, prompt: Prompt, params: SamplingParams, **more: Any) -> AsyncGenerator[TokenEvent]:
        self._require("generate")
        return super().generate(prompt, params, **more)

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]], **more: Any) -> list[TokenLogprobs]:
        self._require("generate")
        return await super().score(prompt, continuations, **more)

    def _require(self, role: Role) -> None:
        if role != self._role:
            raise NotServed(f"this server's role is {self._role!r}: another one does what this call needs, {role!r}")
