"""Text to summary: segments, their chain of keys, what is stored of them, the engine for the rest."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from server import chain
from server.engine.protocol import Engine
from server.errors import InvalidRequest, NotReady, SummaryNotFound, TooLong
from server.metrics import Metrics
from server.served_model import ServedModel
from server.store import MissingReferences
from server.store.codec import Manifest
from server.summaries import Summaries, Summary

logger = logging.getLogger(__name__)

UNFINISHED_SECONDS = 3600.0  # how long segments wait for the rest of their document
MAX_ATTEMPTS = 3  # to finish a document whose segments are deleted meanwhile


@dataclass(frozen=True)
class Compressed:
    """What `Compressor.compress` did.

    Attributes:
        is_new: the document was not there before.
        cached_segments: how many of the text's segments were not computed.
        engine_seconds: waited for the engine, of `total_seconds`.
    """

    summary: Summary
    is_new: bool
    cached_segments: int
    engine_seconds: float
    total_seconds: float


@dataclass
class _Work:
    """One document on its way: `parent_keys` and `keys` of its segments, those of this call last."""

    segments: Sequence[Sequence[int]]
    keys: Sequence[str]
    parent_keys: Sequence[str]
    num_computed: int = field(default=0, init=False)
    engine_seconds: float = field(default=0.0, init=False)


class Compressor:
    """Keeps documents as chains of segments, each computed once."""

    def __init__(
        self, model: ServedModel, engine: Engine, summaries: Summaries, metrics: Metrics, *, tenant_salt: str
    ) -> None:
        self._model = model
        self._engine = engine
        self._summaries = summaries
        self._metrics = metrics
        self._root = chain.root_key(model.fingerprint, tenant_salt)

    async def compress(
        self,
        token_ids: Sequence[int],
        *,
        parent_id: str | None = None,
        ttl_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Compressed:
        """Compress a document, or what follows the one of `parent_id`; the summary is stored when this returns.

        Args:
            ttl_seconds: None keeps it for ever. Metadata given replaces what an equal document had.

        Raises:
            InvalidRequest: no tokens. TooLong: more segments than the model has positions for.
            SummaryNotFound, ModelMismatch: of the parent. And what the engine and the store raise.
        """
        started = time.monotonic()
        if not token_ids:
            raise InvalidRequest("the document is empty: it has 0 tokens", param="text")
        parent = await self._summaries.get(parent_id, param="parent") if parent_id is not None else None
        length = self._model.config.segment_length
        segments = [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
        parent_tokens = () if parent is None else parent.manifest.segment_tokens
        self._require_room((*parent_tokens, *(len(segment) for segment in segments)))
        keys = await asyncio.to_thread(chain.extend, self._root if parent is None else parent.id, segments)
        work = _Work(segments, keys, () if parent is None else parent.manifest.segments)
        summary = Summary(keys[-1], self._manifest(work, parent, metadata or {}))

        stored = await self._renew(summary.id, ttl_seconds, metadata)
        if stored is None:
            await self._complete(summary, work, ttl_seconds)
        done = Compressed(
            summary=stored or summary,
            is_new=stored is None,
            cached_segments=max(0, len(segments) - work.num_computed),
            engine_seconds=work.engine_seconds,
            total_seconds=time.monotonic() - started,
        )
        self._observe(done, work)
        return done

    def _manifest(self, work: _Work, parent: Summary | None, metadata: dict[str, str]) -> Manifest:
        segments = (*work.parent_keys, *work.keys)
        parent_tokens = () if parent is None else parent.manifest.segment_tokens
        return Manifest(
            fingerprint=self._model.fingerprint,
            segments=segments,
            segment_tokens=(*parent_tokens, *(len(segment) for segment in work.segments)),
            vectors=self._model.num_vectors(len(segments)),
            created=time.time(),
            metadata=metadata,
            parent=None if parent is None else parent.id,
        )

    def _require_room(self, lengths: Sequence[int]) -> None:
        """Refuse a document with a segment, of these lengths, that would not fit after the vectors of those before."""
        config, positions = self._model.config, self._model.positions
        for index, num_tokens in enumerate(lengths):
            num_before = (index if config.accumulate_summary else min(index, 1)) * config.summary_length
            if num_tokens > positions.capacity(num_before, config.summary_length):
                raise TooLong(
                    f"the document has {sum(lengths)} tokens in {len(lengths)} segments; the model's "
                    f"{positions.max_positions} positions take {index} segments, {sum(lengths[:index])} tokens",
                    param="text",
                )

    async def _renew(
        self, summary_id: str, ttl_seconds: float | None, metadata: dict[str, str] | None
    ) -> Summary | None:
        """The summary where it is stored, with new metadata and a longer life where asked for; else None."""
        found = await self._summaries.find(summary_id)
        if found is None:
            return None
        summary, seconds_left = found
        is_longer = seconds_left is not None and (ttl_seconds is None or ttl_seconds > seconds_left)
        if metadata is not None and metadata != summary.manifest.metadata:
            summary = replace(summary, manifest=replace(summary.manifest, metadata=metadata))
        elif not is_longer:
            return summary
        try:
            await self._summaries.put(summary, ttl_seconds=ttl_seconds)
        except MissingReferences:
            return None
        return summary

    async def _complete(self, summary: Summary, work: _Work, ttl_seconds: float | None) -> None:
        """Compute the segments that are not stored, and store the manifest."""
        for _ in range(MAX_ATTEMPTS):
            await self._compute_missing(work)
            try:
                await self._summaries.put(summary, ttl_seconds=ttl_seconds)
            except MissingReferences:
                logger.info("segments of %s were deleted meanwhile; computing them again", summary.id)
            else:
                return
        raise NotReady(f"segments of {summary.id} are deleted as fast as they are computed; try again later")

    async def _compute_missing(self, work: _Work) -> None:
        """Compute and store what follows the stored segments, each as it is made: an interrupted call goes on there."""
        stored = await self._summaries.leading_segments([*work.parent_keys, *work.keys])
        first = len(stored) - len(work.parent_keys)
        if first < 0:
            raise SummaryNotFound("the parent was deleted or has expired", param="parent")
        if first == len(work.segments):
            return
        waiting_since = time.monotonic()
        segments = self._engine.compress(work.segments[first:], soft_prompt=self._soft_prompt(stored))
        async with aclosing(segments) as made:
            index = first
            async for vectors in made:
                work.engine_seconds += time.monotonic() - waiting_since
                await self._summaries.put_segment(work.keys[index], vectors, ttl_seconds=UNFINISHED_SECONDS)
                work.num_computed += 1
                index += 1
                waiting_since = time.monotonic()

    def _soft_prompt(self, vectors: Sequence[Tensor]) -> Tensor | None:
        if not vectors:
            return None
        return torch.cat(list(vectors)) if self._model.config.accumulate_summary else vectors[-1]

    def _observe(self, done: Compressed, work: _Work) -> None:
        self._metrics.compress_seconds.observe(done.total_seconds)
        self._metrics.compression_ratio.observe(done.summary.compression_ratio)
        self._metrics.segments.labels(source="cached").inc(done.cached_segments)
        self._metrics.segments.labels(source="computed").inc(work.num_computed)
