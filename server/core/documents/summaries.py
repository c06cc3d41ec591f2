"""Stored summaries: records of the store as documents, its errors as the client's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.core import chain
from server.core.callers.visit import note
from server.core.documents.memory_tier import MemoryTier
from server.core.documents.segments import Segments, segment_key, text_key
from server.core.documents.store_calls import StoreCalls
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.errors import NotReady, SummaryNotFound
from server.metrics import Metrics
from server.store import Entry, EntryChanged, SummaryStore
from server.store.codec import CorruptRecord, FingerprintMismatch, Manifest, decode_manifest, encode_manifest

MAX_UPDATES = 20  # of one manifest, before its others are told to be too many
LISTED_TOGETHER = 200  # manifests read at a time for a list


@dataclass(frozen=True)
class CarriedSegment:
    """A segment that a request brought with it: its vectors, and the token ids that they stand for."""

    summary: SegmentSummary
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """A stored document: its id and its manifest.

    `carried`: by their keys, segments that are not in the store; those of a document that is not stored are all here.
    """

    id: str
    manifest: Manifest
    carried: Mapping[str, CarriedSegment] = field(default_factory=dict, compare=False)

    @property
    def tokens(self) -> int:
        return sum(self.manifest.segment_tokens)

    @property
    def compression_ratio(self) -> float:
        """Document tokens for each summary vector."""
        return self.tokens / self.manifest.vectors

    def described(self, model: str) -> dict[str, Any]:
        """What whoever asks for it is told, `model` the name of the one that made it."""
        return {
            "id": self.id,
            "model": model,
            "created": int(self.manifest.created),
            "tokens": self.tokens,
            "segments": len(self.manifest.segments),
            "vectors": self.manifest.vectors,
            "compression_ratio": round(self.compression_ratio, 2),
            "parent": self.manifest.parent,
            "has_text": self.manifest.has_text,
            "metadata": self.manifest.metadata,
        }


Change = Callable[[Summary | None, float | None], Summary | None]


class AllSummaries:
    """Those of every tenant, each tenant's in a space of the store."""

    def __init__(
        self, model: ServedModel, store: SummaryStore, metrics: Metrics, tier: MemoryTier | None = None
    ) -> None:
        """`tier`: vectors in memory; None for none."""
        self._model = model
        self._store = store
        self._calls = StoreCalls(metrics, model)
        self._tier = tier or MemoryTier(0, metrics)

    def of(self, tenant: Tenant) -> "Summaries":
        """Those of one."""
        return Summaries(self._model, self._store.space(tenant.account), self._tier, self._calls, tenant)

    async def ping(self) -> None:
        """Return if the store answers and has room; NotReady, StoreExhausted if not."""
        async with self._calls("ping"):
            await self._store.ping()


class Summaries:
    """Reads and writes a tenant's manifests, one record each, under keys of the chain; `segments` does what they name.

    No other tenant's are found here, whoever has their ids.
    """

    def __init__(
        self, model: ServedModel, store: SummaryStore, tier: MemoryTier, calls: StoreCalls, tenant: Tenant
    ) -> None:
        """`store`: the tenant's space of it."""
        self._model = model
        self._store = store
        self._calls = calls
        self._owner = tenant.owner(model.fingerprint)
        self.segments = Segments(model, store, tier, calls)

    async def get(self, summary_id: str, *, param: str) -> Summary:
        """What is stored under an id; `param` names the field it came from in errors.

        Raises:
            SummaryNotFound, of one that is damaged too, ModelMismatch, and what any call to the store raises: NotReady.
        """
        if not chain.is_key(summary_id):
            raise _absent(summary_id, param)
        return (await self.get_many([summary_id], param=param))[0]

    async def get_many(self, summary_ids: Sequence[str], *, param: str) -> list[Summary]:
        """As `get`, of several in one call to the store; of none without one."""
        if not summary_ids:
            return []
        async with self._calls("get"):
            values = await self._store.get_many([_manifest_key(summary_id) for summary_id in summary_ids])
        for summary_id, value in zip(summary_ids, values, strict=True):
            if value is None:
                raise _absent(summary_id, param)
        self._store.use([_manifest_key(summary_id) for summary_id in summary_ids])
        async with self._calls("decode", param=param, damaged=SummaryNotFound):
            return [
                self._decoded(summary_id, value)
                for summary_id, value in zip(summary_ids, values, strict=True)
                if value is not None
            ]

    def _decoded(self, summary_id: str, data: bytes) -> Summary:
        try:
            manifest = decode_manifest(data, fingerprint=self._model.fingerprint)
        except CorruptRecord as error:
            raise CorruptRecord(f"{_manifest_key(summary_id)} is {error}") from error
        note("read", summary_id)
        return Summary(summary_id, manifest)

    async def page(self, *, limit: int, after: str | None) -> tuple[list[Summary], bool]:
        """Up to `limit` of the summaries that this model made, the newest first, and whether there are more.

        Raises:
            SummaryNotFound: `after`, the last of the page before, never was, or went a day ago. And as `get`.
        """
        found: list[Summary] = []
        last = None if after is None else _manifest_key(after)
        while len(found) <= limit:
            async with self._calls("list"):
                wanted = min(LISTED_TOGETHER, limit + 1)
                keys = await self._store.list_referrers(limit=wanted, after=last)
                if keys is None:
                    raise SummaryNotFound(f"there is no summary {after!r} to go on after", param="after")
                values = await self._store.get_many(keys)
            found += [summary for summary in map(self._listed, keys, values) if summary]
            if len(keys) < wanted:
                break
            last = keys[-1]
        return found[:limit], len(found) > limit

    def _listed(self, key: str, value: bytes | None) -> Summary | None:
        """A summary to list; one that is gone, damaged or of another model is not.

        Nor is another tenant's: those of a store of before there were spaces may be here.
        """
        if value is None:
            return None
        try:
            manifest = decode_manifest(value, fingerprint=self._model.fingerprint)
        except (CorruptRecord, FingerprintMismatch):
            return None
        return Summary(key.removeprefix(_manifest_key("")), manifest) if manifest.tenant == self._owner else None

    async def vectors(self, summary: Summary) -> Tensor:
        """The soft prompt a summary stands for, (P, D): of all segments, or in RMT mode of the last.

        Raises:
            SummaryNotFound: deleted since it was read. And as `get`.
        """
        numbers = self._model.conditioning(range(len(summary.manifest.segments)))
        return torch.cat([each.vectors for each in await self.read_segments(summary, numbers)])

    async def read_segments(self, summary: Summary, numbers: Sequence[int]) -> list[SegmentSummary]:
        """What is stored of a document's segments of these numbers, from 0. Raises as `vectors`."""
        keys = [summary.manifest.segments[number] for number in numbers]
        lengths = [self._model.config.num_vectors(summary.manifest.segment_tokens[number]) for number in numbers]
        found = await self.segments.read(keys, lengths)
        parts = [each for each in found if each is not None]
        if len(parts) < len(found):
            raise SummaryNotFound(f"summary {summary.id!r} was deleted or has expired")
        return parts

    async def seconds_to_live(self, summary_id: str) -> float | None:
        """What is left of a summary's time to live, None for ever; SummaryNotFound where it is over."""
        async with self._calls("stat"):
            stat = await self._store.stat(_manifest_key(summary_id))
        if stat is None:
            raise _absent(summary_id, "id")
        return stat.seconds_to_live

    async def find(self, summary_id: str) -> tuple[Summary, float | None] | None:
        """A summary and its time to live, None for ever; nothing where it is absent, or damaged and to be replaced."""
        summary, _, seconds_to_live = await self._found(summary_id)
        return None if summary is None else (summary, seconds_to_live)

    async def _found(self, summary_id: str) -> tuple[Summary | None, bytes | None, float | None]:
        """As `find`, with the bytes as they are stored."""
        async with self._calls("get"):
            found = await self._store.find(_manifest_key(summary_id))
        if found is None:
            return None, None, None
        data, seconds_to_live = found
        async with self._calls("decode", param="id"):
            try:
                manifest = decode_manifest(data, fingerprint=self._model.fingerprint)
            except CorruptRecord:
                self._calls.damaged("damaged manifest", f"the manifest of {summary_id} is damaged and is written anew")
                return None, data, None
        return Summary(summary_id, manifest), data, seconds_to_live

    async def is_whole(self, summary: Summary) -> bool:
        """Whether all that its manifest names is there, and not found damaged: a Redis may evict what it likes."""
        manifest = summary.manifest
        if self.segments.are_damaged(manifest.segments, with_texts=manifest.has_text):
            return False
        is_whole = await self.segments.are_there(manifest.segments, with_texts=manifest.has_text)
        if not is_whole:
            self._calls.lost("segments gone", f"segments of {summary.id} are gone from the store; was its memory full?")
        return is_whole

    async def update(self, summary_id: str, change: Change, *, ttl_seconds: float | None) -> Summary | None:
        """Store what `change` makes of what is stored, if no other replica stored something else meanwhile; else again.

        The segments of the summary are stored before; they live at least as long.

        Args:
            change: of a summary, None where there is none, and its time to live; gives None where all is well.

        Returns:
            What is stored then, None where nothing is.

        Raises:
            MissingReferences: a segment was deleted meanwhile; nothing was stored.
            NotReady: others write it all the time. And what `change` raises.
        """
        for _ in range(MAX_UPDATES):
            found, data, seconds_to_live = await self._found(summary_id)
            summary = change(found, seconds_to_live)
            if summary is None:
                return found
            # what was asked to be kept for ever is not evicted
            is_endless = ttl_seconds is None or (data is not None and seconds_to_live is None)
            entry = Entry(
                _manifest_key(summary_id),
                encode_manifest(summary.manifest),
                _references(summary.manifest),
                is_pinned=is_endless,
            )
            try:
                async with self._calls("put"):
                    await self._store.put_many([entry], ttl_seconds=ttl_seconds, expected={entry.key: data})
            except EntryChanged:
                continue
            note("stored", summary_id)
            return summary
        raise NotReady(f"summary {summary_id} is changed by others all the time; try again later")

    async def touch(self, summary_id: str, *, ttl_seconds: float | None) -> None:
        """Have a summary live at least so long, where it is there."""
        async with self._calls("touch"):
            await self._store.touch([_manifest_key(summary_id)], ttl_seconds=ttl_seconds)

    async def delete(self, summary_id: str) -> None:
        """Delete a summary, damaged or not, and segments that no other summary has; SummaryNotFound for none."""
        async with self._calls("delete"):
            was_there = chain.is_key(summary_id) and await self._store.delete(_manifest_key(summary_id))
        if not was_there:
            raise _absent(summary_id, "id")
        note("deleted", summary_id)


def _absent(summary_id: str, param: str) -> SummaryNotFound:
    return SummaryNotFound(f"there is no summary {summary_id!r}", param=param)


def _references(manifest: Manifest) -> tuple[str, ...]:
    """What a manifest is of no use without."""
    keys = tuple(dict.fromkeys(manifest.segments))  # one that is read alone may stand at several places
    return (*map(segment_key, keys), *(map(text_key, keys) if manifest.has_text else ()))


def _manifest_key(summary_id: str) -> str:
    return f"manifest:{summary_id}"
