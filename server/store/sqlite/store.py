"""The store in one SQLite file: durable, and no server needed."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from server.store.protocol import Entry, EntryStat, StoreFull, StoreUnavailable, to_milliseconds
from server.store.sqlite import operations
from server.store.sqlite.file import connect

P = ParamSpec("P")
T = TypeVar("T")


class EmbeddedStore:
    """A `SummaryStore` in a file of this host; several processes may share it.

    A put that has returned survives the end of the process and of the power. The file does not shrink: the space of
    removed entries is used again. Opened with `open`; its one thread owns the connection.
    """

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path, *, busy_timeout_seconds: float = 5.0) -> "EmbeddedStore":
        """Open or create the file and its folder.

        Args:
            busy_timeout_seconds: how long a call waits for another process's write before it is StoreUnavailable.

        Raises:
            StoreUnavailable: the file cannot be opened.
            StoreError: the file is of another program or of another version of this one.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            with _as_store_errors():
                connection = await asyncio.get_running_loop().run_in_executor(
                    thread, connect, path, busy_timeout_seconds
                )
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, thread)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await self._run(operations.get_many, keys)

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        return await self._run(operations.exist, keys)

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        await self._run(operations.put_many, entries, to_milliseconds(ttl_seconds), expected or {})

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        return await self._run(operations.touch, keys, to_milliseconds(ttl_seconds))

    async def delete(self, key: str) -> bool:
        return await self._run(operations.delete, key)

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        return await self._run(operations.find, key)

    async def stat(self, key: str) -> EntryStat | None:
        return await self._run(operations.stat, key)

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        return await self._run(operations.list_referrers, limit, after)

    async def concerns(self) -> list[str]:
        return []

    async def ping(self) -> None:
        await self._run(operations.ping)

    async def close(self) -> None:
        await self._run(sqlite3.Connection.close)
        self._thread.shutdown()

    async def _run(
        self, operation: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def on_thread() -> T:
            return operation(self._connection, *args, **kwargs)

        with _as_store_errors():
            return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        # the low byte is the primary result code (https://sqlite.org/rescode.html)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise StoreFull(f"the store's disk is full: {error}") from error
        raise StoreUnavailable(f"the store's file failed: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"the store's file cannot be opened: {error}") from error
