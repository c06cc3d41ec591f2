"""Stored summaries: records of the store as documents, its errors as the client's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from model.compressors import SegmentSummary
from server import chain
from server.errors import (
    Internal,
    InvalidRequest,
    ModelMismatch,
    NotReady,
    ServiceError,
    StoreExhausted,
    SummaryNotFound,
)
from server.metrics import Metrics
from server.schemas.summaries import MAX_METADATA
from server.served_model import ServedModel
from server.store import Entry, EntryStat, MissingReferences, StoreError, StoreFull, StoreUnavailable, SummaryStore
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_summary,
    encode_manifest,
    encode_summary,
)

logger = logging.getLogger(__name__)

LISTED_TOGETHER = 200  # manifests read at a time for a list


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
        """Document tokens for each summary vector."""
        return self.tokens / self.manifest.vectors


def renewed(
    summary: Summary, seconds_left: float | None, ttl_seconds: float | None, metadata: dict[str, str] | None
) -> Summary | None:
    """What is to be stored so that a summary has this metadata too and lives this long; None where it does already.

    Raises:
        InvalidRequest: it would have more metadata than a summary may have.
    """
    merged = summary.manifest.metadata | (metadata or {})
    if len(merged) > MAX_METADATA:
        raise InvalidRequest(
            f"with what is stored, metadata has {len(merged)} entries, and the limit is {MAX_METADATA}",
            param="metadata",
        )
    if merged != summary.manifest.metadata:
        return replace(summary, manifest=replace(summary.manifest, metadata=merged))
    is_longer = seconds_left is not None and (ttl_seconds is None or ttl_seconds > seconds_left)
    return summary if is_longer else None


class Summaries:
    """Reads and writes manifests and segments, one record each, under keys of the chain."""

    def __init__(self, model: ServedModel, store: SummaryStore, metrics: Metrics) -> None:
        self._model = model
        self._store = store
        self._metrics = metrics

    async def get(self, summary_id: str, *, param: str) -> Summary:
        """What is stored under an id; `param` names the field it came from in errors.

        Raises:
            SummaryNotFound, ModelMismatch, and what any call to the store raises: NotReady, Internal.
        """
        data = None
        if chain.is_key(summary_id):
            async with self._store_call("get"):
                (data,) = await self._store.get_many([_manifest_key(summary_id)])
        if data is None:
            raise SummaryNotFound(f"there is no summary {summary_id!r}", param=param)
        async with self._store_call("decode"):
            return Summary(summary_id, decode_manifest(data, fingerprint=self._model.fingerprint))

    async def get_many(self, summary_ids: Sequence[str], *, param: str) -> list[Summary]:
        """As `get`, of several in one call to the store; of none without one."""
        if not summary_ids:
            return []
        async with self._store_call("get"):
            values = await self._store.get_many([_manifest_key(summary_id) for summary_id in summary_ids])
        for summary_id, value in zip(summary_ids, values, strict=True):
            if value is None:
                raise SummaryNotFound(f"there is no summary {summary_id!r}", param=param)
        async with self._store_call("decode"):
            return [
                Summary(summary_id, decode_manifest(value, fingerprint=self._model.fingerprint))
                for summary_id, value in zip(summary_ids, values, strict=True)
                if value is not None
            ]

    async def page(self, tenant: str, *, limit: int, after: str | None) -> tuple[list[Summary], bool]:
        """Up to `limit` of a tenant's summaries, the newest first, and whether there are more.

        Raises:
            SummaryNotFound: `after`, the last of the page before, is gone. And as `get`.
        """
        found: list[Summary] = []
        last = None if after is None else _manifest_key(after)
        while len(found) <= limit:
            async with self._store_call("list"):
                keys = await self._store.list_referrers(limit=LISTED_TOGETHER, after=last)
                if keys is None:
                    raise SummaryNotFound(f"there is no summary {after!r} to go on after", param="after")
                values = await self._store.get_many(keys)
            found += [
                summary for summary in map(self._listed, keys, values) if summary and summary.manifest.tenant == tenant
            ]
            if len(keys) < LISTED_TOGETHER:
                break
            last = keys[-1]
        return found[:limit], len(found) > limit

    def _listed(self, key: str, value: bytes | None) -> Summary | None:
        """A summary to list; one that is gone, damaged or of another model is not."""
        if value is None:
            return None
        try:
            return Summary(
                key.removeprefix(_manifest_key("")), decode_manifest(value, fingerprint=self._model.fingerprint)
            )
        except (CorruptRecord, FingerprintMismatch):
            return None

    def conditioning_keys(self, summary: Summary) -> tuple[str, ...]:
        """Ids of the segments whose vectors its soft prompt is: all of them, or in RMT mode the last."""
        segments = summary.manifest.segments
        return segments if self._model.config.accumulate_summary else segments[-1:]

    async def vectors(self, summary: Summary) -> list[SegmentSummary]:
        """What a summary conditions with: the vectors of all segments, or in RMT mode of the last.

        Raises:
            SummaryNotFound: deleted since it was read. And as `get`.
        """
        (vectors,) = await self.vectors_of_many([summary])
        return vectors

    async def vectors_of_many(self, summaries: Sequence[Summary]) -> list[list[SegmentSummary]]:
        """As `vectors`, of several in one call to the store."""
        keys = [self.conditioning_keys(summary) for summary in summaries]
        async with self._store_call("get"):
            values = await self._store.get_many([_segment_key(key) for own in keys for key in own])
        remaining, grouped = iter(values), []
        for summary, own in zip(summaries, keys, strict=True):
            group = [value for value in islice(remaining, len(own)) if value is not None]
            if len(group) < len(own):
                raise SummaryNotFound(f"summary {summary.id!r} was deleted or has expired")
            grouped.append(group)
        async with self._store_call("decode"):
            return await asyncio.to_thread(lambda: [self._decoded(group) for group in grouped])

    async def seconds_to_live(self, summary_id: str) -> float | None:
        """What is left of a summary's time to live, None for ever; SummaryNotFound where it is over."""
        stat = await self._stat(summary_id)
        if stat is None:
            raise SummaryNotFound(f"there is no summary {summary_id!r}", param="id")
        return stat.seconds_to_live

    async def find(self, summary_id: str) -> tuple[Summary, float | None] | None:
        """A summary and its time to live, None for ever; nothing where it is absent, or damaged and to be replaced."""
        async with self._store_call("get"):
            found = await self._store.find(_manifest_key(summary_id))
        if found is None:
            return None
        data, seconds_to_live = found
        try:
            manifest = decode_manifest(data, fingerprint=self._model.fingerprint)
        except CorruptRecord:
            logger.warning("the manifest of %s is damaged and is written anew", summary_id)
            return None
        return Summary(summary_id, manifest), seconds_to_live

    async def leading_segments(self, keys: Sequence[str]) -> list[SegmentSummary]:
        """The vectors of the first of these segments, up to one that is absent, or damaged and to be replaced."""
        return [
            segment
            for segment in takewhile(lambda each: each is not None, await self.segments(keys))
            if segment is not None
        ]

    async def segments(self, keys: Sequence[str]) -> list[SegmentSummary | None]:
        """The vectors of each of these segments; None for one that is absent, or damaged and to be replaced."""
        async with self._store_call("get"):
            values = await self._store.get_many([_segment_key(key) for key in keys])
        return [self._segment(key, value) for key, value in zip(keys, values, strict=True)]

    def _segment(self, key: str, value: bytes | None) -> SegmentSummary | None:
        try:
            return None if value is None else decode_summary(value, fingerprint=self._model.fingerprint)
        except CorruptRecord:
            logger.warning("segment %s is damaged and is computed anew", key)
            return None

    async def put_segment(self, key: str, segment: SegmentSummary, *, ttl_seconds: float) -> None:
        value = await asyncio.to_thread(encode_summary, segment, fingerprint=self._model.fingerprint)
        async with self._store_call("put"):
            await self._store.put_many([Entry(_segment_key(key), value)], ttl_seconds=ttl_seconds)

    async def put(self, summary: Summary, *, ttl_seconds: float | None) -> None:
        """Store a manifest whose segments are stored; they live at least as long.

        Raises:
            MissingReferences: a segment was deleted meanwhile; nothing was stored.
        """
        references = tuple(_segment_key(key) for key in summary.manifest.segments)
        entry = Entry(_manifest_key(summary.id), encode_manifest(summary.manifest), references)
        async with self._store_call("put"):
            await self._store.put_many([entry], ttl_seconds=ttl_seconds)

    async def delete(self, summary_id: str) -> None:
        """Delete a summary, and of its segments those no other summary has; SummaryNotFound where it is not there."""
        async with self._store_call("delete"):
            was_there = chain.is_key(summary_id) and await self._store.delete(_manifest_key(summary_id))
        if not was_there:
            raise SummaryNotFound(f"there is no summary {summary_id!r}", param="id")

    def _decoded(self, values: Sequence[bytes]) -> list[SegmentSummary]:
        return [decode_summary(value, fingerprint=self._model.fingerprint) for value in values]

    async def _stat(self, summary_id: str) -> EntryStat | None:
        async with self._store_call("stat"):
            return await self._store.stat(_manifest_key(summary_id))

    @asynccontextmanager
    async def _store_call(self, operation: str) -> AsyncIterator[None]:
        """Time a call, and say its errors as the client is to hear them; `MissingReferences` is the caller's."""
        with self._metrics.store_seconds.labels(operation=operation).time():
            try:
                yield
            except MissingReferences:
                raise
            except FingerprintMismatch as error:  # a client's stale id, no failure of the store
                raise _as_service_error(error) from error
            except StoreError as error:
                self._metrics.store_errors.labels(operation=operation).inc()
                raise _as_service_error(error) from error


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
