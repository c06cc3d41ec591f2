"""The store in one SQLite file: durable, and no server needed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from server.store.budget import UNBOUNDED, Budget
from server.store.protocol import (
    OWN_SPACE,
    Entry,
    EntryStat,
    Kept,
    SpaceStats,
    StoreFull,
    Swept,
    require_space,
    to_milliseconds,
)
from server.store.sqlite import pages, reads, writes
from server.store.sqlite.file import connect, connect_to_read
from server.store.sqlite.lane import Lane
from server.store.sqlite.reserve import RESERVE_BYTES
from server.store.sqlite.room import Room
from server.store.uses import Used, Uses

WALKED_TOGETHER = 500  # keys


class EmbeddedStore:
    """A `SummaryStore` in a file of this host; several processes may share it.

    A put that has returned survives the end of the process and of the power. The space of removed entries is used
    again; what is more than a quarter of the file is given back, a little with each put and delete, and all of it by
    `sweep`. Opened with `open`; reads have a connection of their own, so that none waits behind a write.
    """

    may_lose = False

    def __init__(self, writer: Lane, reader: Lane, room: Room, budget: Budget, uses: Uses, space: str) -> None:
        self._writer = writer
        self._reader = reader
        self._room = room
        self._budget = budget
        self._uses = uses
        self._space = space

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        busy_timeout_seconds: float = 5.0,
        reserve_bytes: int = RESERVE_BYTES,
        budget: Budget = UNBOUNDED,
        old_space: str = OWN_SPACE,
    ) -> "EmbeddedStore":
        """Open or create the file and its folder, which are then for this user alone.

        Args:
            busy_timeout_seconds: how long a call waits for another process's write before it is StoreUnavailable.
            reserve_bytes: taken on the disk, so that deletion works when it is full.
            old_space: whose entries become what a file has of before there were spaces.

        Raises:
            StoreUnavailable: the file cannot be opened.
            StoreFull: the file is of an earlier version, and there is no room to rewrite it.
            StoreError: the file is of another program or of another version of this one.
        """
        writer = await Lane.open(partial(connect, old_space=old_space), path, busy_timeout_seconds)
        try:
            reader = await Lane.open(connect_to_read, path, busy_timeout_seconds)
        except BaseException:
            await writer.close()
            raise
        room = Room(path, reserve_bytes)
        await writer.run(room.prepare)

        async def write_uses(used: Used) -> None:
            await writer.run(room.taking, writes.write_uses, used)

        return cls(writer, reader, room, budget, Uses(write_uses), OWN_SPACE)

    def space(self, name: str) -> "EmbeddedStore":
        return EmbeddedStore(self._writer, self._reader, self._room, self._budget, self._uses, require_space(name))

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await self._reader.run(reads.get_many, self._space, keys)

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        return await self._reader.run(reads.exist, self._space, keys)

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        stored = await self._writer.run(
            self._room.taking,
            writes.put_many,
            self._space,
            entries,
            ttl_milliseconds=to_milliseconds(ttl_seconds),
            expected=expected or {},
            max_bytes=self._budget.max_bytes,
            quota=self._budget.quotas.get(self._space),
            used=self._uses.take(),
        )
        self._budget.on_bytes(stored.total_bytes)
        if stored.num_evicted:
            self._budget.on_evicted(stored.num_evicted)

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        return await self._writer.run(self._room.taking, writes.touch, self._space, keys, to_milliseconds(ttl_seconds))

    async def delete(self, key: str) -> bool:
        return await self._writer.run(self._room.making, writes.delete, self._space, key)

    def use(self, keys: Sequence[str]) -> None:
        if self._budget.max_bytes is not None:
            self._uses.note(self._space, keys)

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        return await self._reader.run(reads.find, self._space, key)

    async def read(self, keys: Sequence[str]) -> list[Kept | None]:
        return await self._reader.run(reads.read, self._space, keys)

    async def stat(self, key: str) -> EntryStat | None:
        return await self._reader.run(reads.stat, self._space, key)

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        return await self._reader.run(reads.list_referrers, self._space, limit, after)

    async def walk(self) -> AsyncIterator[list[str]]:
        after = ""
        while keys := await self._reader.run(reads.keys_after, self._space, after, WALKED_TOGETHER):
            yield keys
            after = keys[-1]

    async def size_bytes(self) -> int:
        return await self._reader.run(reads.size_bytes, self._space)

    async def stats(self) -> list[SpaceStats]:
        return await self._reader.run(reads.stats)

    async def sweep(self) -> Swept:
        num_swept, freed_bytes = await self._writer.run(self._room.making, writes.sweep_all), 0
        # a lane's turn each, so that others have theirs
        while given_back := await self._writer.run(self._room.making, pages.give_back):
            freed_bytes += given_back
        await self._writer.run(pages.empty_log)
        return Swept(num_swept, freed_bytes)

    async def concerns(self) -> list[str]:
        return []

    async def ping(self) -> None:
        self._budget.on_bytes(await self._reader.run(reads.total_bytes))
        if self._room.is_full and not await self._writer.run(self._room.has_room):
            raise StoreFull("the store's disk is full")

    async def close(self) -> None:
        await self._uses.close()
        await self._reader.close()
        await self._writer.close()
