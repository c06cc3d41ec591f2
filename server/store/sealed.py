"""A store whose values are sealed with keys that it does not have itself; keys, sizes and references stay readable."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from server.store.protocol import (
    OWN_SPACE,
    Entry,
    EntryChanged,
    EntryStat,
    Kept,
    SpaceStats,
    SummaryStore,
    Swept,
)
from server.store.sealing import UNREADABLE, StoreKeys

logger = logging.getLogger(__name__)

T = TypeVar("T")
LARGE_BYTES = 2**18  # takes long enough for a thread
SECONDS_BETWEEN = 10.0  # two lines of one kind
LOOKED_AT = 20  # entries, at the start


class SealedStore:
    """A `SummaryStore` in front of another. What cannot be opened reads as one of `UNREADABLE`, which no decoder takes.

    `stat`, `stats` and a budget count bytes as they are kept, sealed. Without keys nothing is sealed, and what is
    sealed cannot be read.
    """

    def __init__(
        self, store: SummaryStore, keys: StoreKeys, *, takes_plain: bool = False, space: str = OWN_SPACE
    ) -> None:
        """`takes_plain`: values that are not sealed are read though there are keys."""
        self._store = store
        self._keys = keys
        self._takes_plain = takes_plain
        self._space = space
        self._logged_at: dict[bytes, float] = {}

    @property
    def may_lose(self) -> bool:
        return self._store.may_lose

    def space(self, name: str) -> "SealedStore":
        view = SealedStore(self._store.space(name), self._keys, takes_plain=self._takes_plain, space=name)
        view._logged_at = self._logged_at
        return view

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        kept = await self._store.get_many(keys)
        return await _worked(sum(len(each or b"") for each in kept), lambda: list(map(self._opened, keys, kept)))

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        found = await self._store.find(key)
        if found is None:
            return None
        value = self._opened(key, found[0])
        assert value is not None
        return value, found[1]

    async def read(self, keys: Sequence[str]) -> list[Kept | None]:
        found = await self._store.read(keys)

        def opened() -> list[Kept | None]:
            return [
                each and replace(each, entry=replace(each.entry, value=self._opened(key, each.entry.value) or b""))
                for key, each in zip(keys, found, strict=True)
            ]

        return await _worked(sum(len(each.entry.value) for each in found if each), opened)

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        kept = await self._as_kept(expected or {}, {entry.key: entry.value for entry in entries})
        sealed = await _worked(
            sum(len(entry.value) for entry in entries),
            lambda: [replace(entry, value=self._keys.sealed(self._space, entry.key, entry.value)) for entry in entries],
        )
        await self._store.put_many(sealed, ttl_seconds=ttl_seconds, expected=kept)

    async def _as_kept(self, expected: Mapping[str, bytes | None], own: Mapping[str, bytes]) -> dict[str, bytes | None]:
        """The bytes that are kept where these values are expected: no two seals of one value are the same.

        Raises:
            EntryChanged: others are there.
        """
        if not expected:
            return {}
        kept = dict(zip(expected, await self._store.get_many(list(expected)), strict=True))
        for key, each in kept.items():
            value = None if each is None else self._keys.opened(self._space, key, each, takes_plain=self._takes_plain)
            if value != expected[key] and (value is None or value != own.get(key)):
                raise EntryChanged(key)
        return kept

    def _opened(self, key: str, kept: bytes | None) -> bytes | None:
        if kept is None:
            return None
        value = self._keys.opened(self._space, key, kept, takes_plain=self._takes_plain)
        if value in UNREADABLE:
            self._warn(key, value)
        return value

    def _warn(self, key: str, why: bytes) -> None:
        """Log it, unless another for the same reason was just now."""
        now = time.monotonic()
        if now - self._logged_at.get(why, -SECONDS_BETWEEN) >= SECONDS_BETWEEN:
            self._logged_at[why] = now
            logger.warning("%s of the space %s cannot be read: %s", key, self._space, why[1:].decode())

    async def concerns(self) -> list[str]:
        found = await self._store.concerns()
        async for keys in self._store.walk():
            some = keys[:LOOKED_AT]
            kept = await self._store.get_many(some)
            told = {self._opened(key, each) for key, each in zip(some, kept, strict=True)}
            unreadable = [each[1:].decode() for each in UNREADABLE if each in told]
            found += [f"some entries of the store cannot be read: {each}" for each in unreadable]
            break
        return found

    def use(self, keys: Sequence[str]) -> None:
        self._store.use(keys)

    def walk(self) -> AsyncIterator[list[str]]:
        return self._store.walk()

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        return await self._store.exist(keys)

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        return await self._store.touch(keys, ttl_seconds=ttl_seconds)

    async def delete(self, key: str) -> bool:
        return await self._store.delete(key)

    async def stat(self, key: str) -> EntryStat | None:
        return await self._store.stat(key)

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        return await self._store.list_referrers(limit=limit, after=after)

    async def size_bytes(self) -> int:
        return await self._store.size_bytes()

    async def stats(self) -> list[SpaceStats]:
        return await self._store.stats()

    async def sweep(self) -> Swept:
        return await self._store.sweep()

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()


async def _worked(num_bytes: int, work: Callable[[], T]) -> T:
    """What sealing or opening so many bytes comes to, beside the event loop where they are many."""
    return await asyncio.to_thread(work) if num_bytes > LARGE_BYTES else work()
