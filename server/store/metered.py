"""A store whose calls are counted: what was found, what failed, how many bytes went in and out."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from server.metrics import Metrics
from server.store.protocol import (
    Entry,
    EntryChanged,
    EntryStat,
    Kept,
    MissingReferences,
    QuotaExceeded,
    SpaceStats,
    StillReferenced,
    StoreError,
    SummaryStore,
    Swept,
)

REFUSALS = (EntryChanged, MissingReferences, QuotaExceeded, StillReferenced)  # answers of the store, no failures of it


def tier_of(url: str) -> str:
    """What the metrics call the backend of a store's URL: `sqlite` or `redis`."""
    return "sqlite" if url.startswith("sqlite:") else "redis"


class MeteredStore:
    """A `SummaryStore` in front of another; `tier` names that one in the metrics."""

    def __init__(self, store: SummaryStore, metrics: Metrics, *, tier: str) -> None:
        self._store = store
        self._metrics = metrics
        self._tier = tier

    @property
    def may_lose(self) -> bool:
        return self._store.may_lose

    def space(self, name: str) -> "MeteredStore":
        return MeteredStore(self._store.space(name), self._metrics, tier=self._tier)

    def use(self, keys: Sequence[str]) -> None:
        self._store.use(keys)

    def walk(self) -> AsyncIterator[list[str]]:
        return self._store.walk()

    async def size_bytes(self) -> int:
        with self._watched("stat"):
            return await self._store.size_bytes()

    async def stats(self) -> list[SpaceStats]:
        with self._watched("stats"):
            return await self._store.stats()

    async def sweep(self) -> Swept:
        with self._watched("sweep"):
            return await self._store.sweep()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._watched("get"):
            values = await self._store.get_many(keys)
        self._count_found("get", [value is not None for value in values])
        self._metrics.store_bytes.labels(direction="read").inc(sum(len(value or b"") for value in values))
        return values

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        with self._watched("exist"):
            found = await self._store.exist(keys)
        self._count_found("exist", found)
        return found

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        with self._watched("put"):
            await self._store.put_many(entries, ttl_seconds=ttl_seconds, expected=expected)
        self._count("put", "ok", len(entries))
        for entry in entries:
            self._metrics.store_value_bytes.observe(len(entry.value))
            self._metrics.store_bytes.labels(direction="written").inc(len(entry.value))

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        with self._watched("touch"):
            found = await self._store.touch(keys, ttl_seconds=ttl_seconds)
        self._count_found("touch", found)
        return found

    async def delete(self, key: str) -> bool:
        with self._watched("delete"):
            was_there = await self._store.delete(key)
        self._count_found("delete", [was_there])
        return was_there

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        with self._watched("get"):
            found = await self._store.find(key)
        self._count_found("get", [found is not None])
        if found is not None:
            self._metrics.store_bytes.labels(direction="read").inc(len(found[0]))
        return found

    async def read(self, keys: Sequence[str]) -> list[Kept | None]:
        with self._watched("get"):
            found = await self._store.read(keys)
        self._count_found("get", [each is not None for each in found])
        self._metrics.store_bytes.labels(direction="read").inc(sum(len(each.entry.value) for each in found if each))
        return found

    async def stat(self, key: str) -> EntryStat | None:
        with self._watched("stat"):
            stat = await self._store.stat(key)
        self._count_found("stat", [stat is not None])
        return stat

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        with self._watched("list"):
            keys = await self._store.list_referrers(limit=limit, after=after)
        self._count("list", "ok")
        return keys

    async def concerns(self) -> list[str]:
        return await self._store.concerns()

    async def ping(self) -> None:
        with self._watched("ping"):
            await self._store.ping()
        self._count("ping", "ok")

    async def close(self) -> None:
        await self._store.close()

    @contextmanager
    def _watched(self, operation: str) -> Iterator[None]:
        """Around a call that counts itself where it succeeds."""
        try:
            yield
        except REFUSALS:
            self._count(operation, "refused")
            raise
        except StoreError:
            self._count(operation, "error")
            raise

    def _count_found(self, operation: str, found: Sequence[bool]) -> None:
        self._count(operation, "hit", sum(found))
        self._count(operation, "miss", len(found) - sum(found))

    def _count(self, operation: str, outcome: str, number: int = 1) -> None:
        self._metrics.store_operations.labels(operation=operation, tier=self._tier, outcome=outcome).inc(number)
