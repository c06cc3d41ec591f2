"""Text to summary: segments, their chain of keys, what the store has, the engine for the rest, the store again."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from server import chain
from server.engine.protocol import Engine
from server.errors import (
    Internal,
    InvalidRequest,
    ModelMismatch,
    NotReady,
    ServiceError,
    StoreExhausted,
    SummaryNotFound,
    TooLong,
)
from server.metrics import Metrics
from server.served_model import ServedModel
from server.store import Entry, MissingReferences, StoreError, StoreFull, StoreUnavailable, SummaryStore
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_vectors,
    encode_manifest,
    encode_vectors,
)

logger = logging.getLogger(__name__)

UNFINISHED_SECONDS = 3600.0  # how long segments wait for the rest of their document
MAX_ATTEMPTS = 3  # to finish a document whose segments are deleted meanwhile


@dataclass(frozen=True)
class Summary:
    """A stored document: its id and its manifest."""

    id: str
    manifest: Manifest

    @property
    def tokens(self) -> int:
        return sum(self.manifest.segment_tokens)

    @property
    def compression_ratio(self) -> float:
        return self.tokens / self.manifest.vectors


@dataclass(frozen=True)
class Timings:
    """Seconds: reading and writing the store, waiting for the engine, and all in all."""

    store_seconds: float
    engine_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Compressed:
    """What /compress did: `is_new` where the document was not there before; `cached_segments` were not computed."""

    summary: Summary
    is_new: bool
    cached_segments: int
    timings: Timings


class Compressor:
    """Keeps documents as chains of segments, each computed once."""

    def __init__(
        self, model: ServedModel, engine: Engine, store: SummaryStore, metrics: Metrics, *, tenant_salt: str
    ) -> None:
        self._model = model
        self._engine = engine
        self._store = store
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
        parent = await self.summary(parent_id, param="parent") if parent_id else None
        length = self._model.config.segment_length
        segments = [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
        keys = chain.extend(self._root if parent is None else parent.id, segments)
        summary = Summary(keys[-1], self._manifest(keys, segments, parent, metadata or {}))
        self._require_room(summary.manifest)
        work = _Work(segments, keys, () if parent is None else parent.manifest.segments, ttl_seconds)
        stored = await self._renew(summary, work, metadata)
        if stored is None:
            cached_segments = await self._complete(summary, work)
        else:
            summary, cached_segments = stored, len(segments)
        total_seconds = time.monotonic() - started
        self._metrics.compress_seconds.observe(total_seconds)
        self._metrics.compression_ratio.observe(summary.compression_ratio)
        self._metrics.segments.labels(source="cached").inc(cached_segments)
        self._metrics.segments.labels(source="computed").inc(len(segments) - cached_segments)
        timings = Timings(work.store_seconds, work.engine_seconds, total_seconds)
        return Compressed(summary, stored is None, cached_segments, timings)

    async def summary(self, summary_id: str, *, param: str) -> Summary:
        """What is stored under an id; `param` names the field it came from in errors."""
        if not chain.is_key(summary_id):
            raise SummaryNotFound(f"there is no summary {summary_id!r}", param=param)
        async with self._store_call("get"):
            (data,) = await self._store.get_many([_manifest_key(summary_id)])
            if data is None:
                raise SummaryNotFound(f"there is no summary {summary_id}", param=param)
            return Summary(summary_id, decode_manifest(data, fingerprint=self._model.fingerprint))

    async def vectors(self, summary: Summary) -> Tensor:
        """The soft prompt a summary stands for, (P, D): of all segments, or in RMT mode of the last."""
        keys = [_segment_key(key) for key in self._conditioning(summary.manifest.segments)]
        async with self._store_call("get"):
            values = await self._store.get_many(keys)
            if any(value is None for value in values):
                raise SummaryNotFound(f"summary {summary.id} was deleted or has expired")
            decoded = [decode_vectors(value, fingerprint=self._model.fingerprint) for value in values if value]
        return torch.cat(decoded)

    async def seconds_to_live(self, summary: Summary) -> float | None:
        """What is left of a summary's time to live; None for ever."""
        async with self._store_call("stat"):
            stat = await self._store.stat(_manifest_key(summary.id))
        return None if stat is None else stat.seconds_to_live

    async def delete(self, summary_id: str) -> None:
        """Delete a summary, and of its segments those no other summary has."""
        async with self._store_call("delete"):
            was_there = chain.is_key(summary_id) and await self._store.delete(_manifest_key(summary_id))
        if not was_there:
            raise SummaryNotFound(f"there is no summary {summary_id!r}", param="id")

    def _manifest(
        self,
        keys: Sequence[str],
        segments: Sequence[Sequence[int]],
        parent: Summary | None,
        metadata: dict[str, str],
    ) -> Manifest:
        all_keys = (*(parent.manifest.segments if parent else ()), *keys)
        return Manifest(
            fingerprint=self._model.fingerprint,
            segments=all_keys,
            segment_tokens=(
                *(parent.manifest.segment_tokens if parent else ()),
                *(len(segment) for segment in segments),
            ),
            vectors=len(self._conditioning(all_keys)) * self._model.config.summary_length,
            created=time.time(),
            metadata=metadata,
            parent=parent.id if parent else None,
        )

    def _conditioning(self, keys: Sequence[str]) -> Sequence[str]:
        return keys if self._model.config.accumulate_summary else keys[-1:]

    def _require_room(self, manifest: Manifest) -> None:
        """Refuse a document whose last segment would not fit after the vectors of those before it."""
        config, positions = self._model.config, self._model.positions
        for index, num_tokens in enumerate(manifest.segment_tokens):
            before = (index if config.accumulate_summary else min(index, 1)) * config.summary_length
            if num_tokens > positions.capacity(before, config.summary_length):
                limit = sum(manifest.segment_tokens[:index])
                raise TooLong(
                    f"the document has {sum(manifest.segment_tokens)} tokens in {len(manifest.segment_tokens)} segments; "
                    f"the model's {positions.max_positions} positions take the first {index} of them, {limit} tokens",
                    param="text",
                )

    async def _renew(self, summary: Summary, work: "_Work", metadata: dict[str, str] | None) -> Summary | None:
        """The summary where the store has it, with new metadata and a longer life where asked for; else None."""
        key = _manifest_key(summary.id)
        async with self._store_call("get", work):
            (data,) = await self._store.get_many([key])
            stat = await self._store.stat(key)
        if data is None or stat is None:
            return None
        try:
            manifest = decode_manifest(data, fingerprint=self._model.fingerprint)
        except CorruptRecord:
            logger.warning("the manifest of %s is damaged and is written anew", summary.id)
            return None
        left = stat.seconds_to_live
        is_longer = left is not None and (work.ttl_seconds is None or work.ttl_seconds > left)
        if is_longer or (metadata is not None and metadata != manifest.metadata):
            manifest = replace(manifest, metadata=manifest.metadata if metadata is None else metadata)
            try:
                await self._put_manifest(Summary(summary.id, manifest), work)
            except MissingReferences:
                return None
        return Summary(summary.id, manifest)

    async def _complete(self, summary: Summary, work: "_Work") -> int:
        """Compute what the store lacks and store the manifest; the number of segments that were not computed.

        Each segment is stored as it is computed, so an interrupted compression goes on where it stopped.
        """
        num_computed = 0
        for _ in range(MAX_ATTEMPTS):
            soft_prompt, num_cached = await self._stored_prefix(work)
            num_computed += await self._compute(soft_prompt, num_cached, work)
            try:
                await self._put_manifest(summary, work)
            except MissingReferences:
                logger.info("segments of %s were deleted meanwhile; computing them again", summary.id)
                continue
            return max(0, len(work.segments) - num_computed)
        raise NotReady(f"segments of {summary.id} are deleted as fast as they are computed; try again later")

    async def _stored_prefix(self, work: "_Work") -> tuple[Tensor | None, int]:
        """The soft prompt of the parent and of the leading segments that the store has, and how many those are.

        A damaged record counts as absent, and is then written anew.
        """
        keys = [*work.parent_keys, *work.keys]
        async with self._store_call("get", work):
            values = await self._store.get_many([_segment_key(key) for key in keys])
        vectors: list[Tensor] = []
        for key, value in zip(keys, values, strict=True):
            if value is None:
                break
            try:
                vectors.append(decode_vectors(value, fingerprint=self._model.fingerprint))
            except CorruptRecord:
                logger.warning("segment %s is damaged and is computed anew", key)
                break
        num_cached = len(vectors) - len(work.parent_keys)
        if num_cached < 0:
            raise SummaryNotFound("the parent was deleted or has expired", param="parent")
        if not vectors:
            return None, 0
        return torch.cat(vectors if self._model.config.accumulate_summary else vectors[-1:]), num_cached

    async def _compute(self, soft_prompt: Tensor | None, num_cached: int, work: "_Work") -> int:
        missing = work.segments[num_cached:]
        if not missing:
            return 0
        waited_from = time.monotonic()
        async with aclosing(self._engine.compress(missing, soft_prompt=soft_prompt)) as made:
            index = num_cached
            async for vectors in made:
                work.engine_seconds += time.monotonic() - waited_from
                value = await asyncio.to_thread(encode_vectors, vectors, fingerprint=self._model.fingerprint)
                entry = Entry(_segment_key(work.keys[index]), value)
                async with self._store_call("put", work):
                    await self._store.put_many([entry], ttl_seconds=UNFINISHED_SECONDS)
                index += 1
                waited_from = time.monotonic()
        return len(missing)

    async def _put_manifest(self, summary: Summary, work: "_Work") -> None:
        references = tuple(_segment_key(key) for key in summary.manifest.segments)
        entry = Entry(_manifest_key(summary.id), encode_manifest(summary.manifest), references)
        async with self._store_call("put", work):
            await self._store.put_many([entry], ttl_seconds=work.ttl_seconds)

    @asynccontextmanager
    async def _store_call(self, operation: str, work: "_Work | None" = None) -> AsyncIterator[None]:
        """Time a call to the store, and say its errors as the client is to hear them; `MissingReferences` passes."""
        started = time.monotonic()
        try:
            yield
        except MissingReferences:
            raise
        except StoreError as error:
            self._metrics.store_errors.labels(operation=operation).inc()
            raise _as_service_error(error) from error
        finally:
            seconds = time.monotonic() - started
            self._metrics.store_seconds.labels(operation=operation).observe(seconds)
            if work is not None:
                work.store_seconds += seconds


@dataclass
class _Work:
    """One call of `compress` on its way: what to compute, and the seconds spent."""

    segments: Sequence[Sequence[int]]
    keys: Sequence[str]
    parent_keys: Sequence[str]
    ttl_seconds: float | None
    store_seconds: float = 0.0
    engine_seconds: float = 0.0


def _manifest_key(summary_id: str) -> str:
    return f"manifest:{summary_id}"


def _segment_key(key: str) -> str:
    return f"segment:{key}"


def _as_service_error(error: StoreError) -> ServiceError:
    if isinstance(error, FingerprintMismatch):
        return ModelMismatch(f"the summary is of another model than the one served: {error}")
    if isinstance(error, StoreFull):
        return StoreExhausted("the store has no room for another summary")
    if isinstance(error, StoreUnavailable):
        return NotReady("the store of summaries cannot be reached")
    if isinstance(error, CorruptRecord):
        return Internal("a stored record is damaged; delete the summary and compress its document again")
    return Internal(f"the store failed: {type(error).__name__}")
