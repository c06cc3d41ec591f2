"""The store in one SQLite file: durable, and no server needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from server.store.protocol import Entry, EntryStat, StoreFull, to_milliseconds
from server.store.sqlite import operations
from server.store.sqlite.file import connect, connect_to_read
from server.store.sqlite.lane import Lane
from server.store.sqlite.reserve import RESERVE_BYTES
from server.store.sqlite.room import Room


class EmbeddedStore:
    """A `SummaryStore` in a file of this host; several processes may share it.

    A put that has returned survives the end of the process and of the power. The file does not shrink: the space of
    removed entries is used again. Opened with `open`; reads have a connection of their own, so that none waits behind
    a write.
    """

    def __init__(self, writer: Lane, reader: Lane, room: Room) -> None:
        self._writer = writer
        self._reader = reader
        self._room = room

    @classmethod
    async def open(
        cls, path: Path, *, busy_timeout_seconds: float = 5.0, reserve_bytes: int = RESERVE_BYTES
    ) -> "EmbeddedStore":
        """Open or create the file and its folder, which are then for this user alone.

        Args:
            busy_timeout_seconds: how long a call waits for another process's write before it is StoreUnavailable.
            reserve_bytes: taken on the disk, so that deletion works when it is full.

        Raises:
            StoreUnavailable: the file cannot be opened.
            StoreError: the file is of another program or of another version of this one.
        """
        writer = await Lane.open(connect, path, busy_timeout_seconds)
        try:
            reader = await Lane.open(connect_to_read, path, busy_timeout_seconds)
        except BaseException:
            await writer.close()
            raise
        room = Room(path, reserve_bytes)
        await writer.run(room.prepare)
        return cls(writer, reader, room)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await self._reader.run(operations.get_many, keys)

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        return await self._reader.run(operations.exist, keys)

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        await self._writer.run(
            self._room.taking, operations.put_many, entries, to_milliseconds(ttl_seconds), expected or {}
        )

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        return await self._writer.run(self._room.taking, operations.touch, keys, to_milliseconds(ttl_seconds))

    async def delete(self, key: str) -> bool:
        return await self._writer.run(self._room.making, operations.delete, key)

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        return await self._reader.run(operations.find, key)

    async def stat(self, key: str) -> EntryStat | None:
        return await self._reader.run(operations.stat, key)

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        return await self._reader.run(operations.list_referrers, limit, after)

    async def concerns(self) -> list[str]:
        return []

    async def ping(self) -> None:
        await self._reader.run(operations.ping)
        if self._room.is_full and not await self._writer.run(self._room.has_room):
            raise StoreFull("the store's disk is full")

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()
