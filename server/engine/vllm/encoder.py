"""Summary vectors from vLLM's pooling instances, whose rows are last hidden states."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

import torch
from torch import Tensor

from model import AutoCompressor
from model.compressors import SegmentSummary
from server.engine.vllm import prompts
from server.engine.vllm.instance import Instance

SEGMENTS_TOGETHER = 8  # of one document whose segments are read alone


class VllmEncoder:
    """The model's own writer over states that vLLM computes."""

    def __init__(self, ends: AutoCompressor, instances: Sequence[Instance]) -> None:
        """`ends`: what of the model is kept here. `instances`: one for each layer that its writer reads, in order; one
        for a writer that reads what it appends.
        """
        self._ends = ends
        self._instances = instances
        self._num_appended = ends.writer.num_appended
        self._appended = ends.writer.appended().detach().to(ends.dtype) if self._num_appended else None

    async def in_turn(
        self, segments: Sequence[Sequence[int]], soft_prompt: Tensor | None, *, salt: str | None
    ) -> AsyncGenerator[SegmentSummary]:
        """Each segment's summary given those before it; their vectors' keys and values are known from the last time."""
        for segment in segments:
            prompt = prompts.to_vllm(soft_prompt, segment, self._appended, salt=salt)
            rows = await self._instances[0].states(prompt, reads_cache=True)
            if len(rows) < self._num_appended:  # all of it was known but for the last few: a segment that comes again
                rows = await self._instances[0].states(prompt, reads_cache=False)
            summary = await asyncio.to_thread(self._written, segment, (), rows[-self._num_appended :])
            yield summary
            if soft_prompt is None or not self._ends.accumulate_summary:
                soft_prompt = summary.vectors
            else:
                soft_prompt = torch.cat([soft_prompt, summary.vectors])

    async def alone(self, segments: Sequence[Sequence[int]]) -> AsyncGenerator[SegmentSummary]:
        """The summary of each segment in order, a few of them being read at a time."""
        ahead: deque[asyncio.Task[SegmentSummary]] = deque()
        left = iter(segments)
        try:
            while True:
                while len(ahead) < SEGMENTS_TOGETHER and (segment := next(left, None)) is not None:
                    ahead.append(asyncio.create_task(self._alone(segment)))
                if not ahead:
                    return
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _alone(self, segment: Sequence[int]) -> SegmentSummary:
        prompt = prompts.to_vllm(None, segment, salt=None)
        states = await asyncio.gather(*(each.states(prompt, reads_cache=False) for each in self._instances))
        return await asyncio.to_thread(self._written, segment, tuple(states), states[0][:0])

    @torch.inference_mode()
    def _written(self, segment: Sequence[int], states: tuple[Tensor, ...], appended: Tensor) -> SegmentSummary:
        """The summary of a segment, from the states (L, D) of the writer's layers and those at what it appended."""
        ends = self._ends
        ids = torch.tensor([list(segment)])
        (summary,) = ends.write(ids, tuple(each.to(ends.dtype)[None] for each in states), appended.to(ends.dtype)[None])
        return summary.on_cpu()
