"""A connection to the SQLite file and the one thread that owns it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from server.store.protocol import StoreFull, StoreUnavailable
from server.store.sqlite.file import is_full

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Calls take their turn; each waits for another process's lock until its deadline, its turn's wait included."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, timeout_seconds: float) -> None:
        self._connection = connection
        self._thread = thread
        self._timeout_seconds = timeout_seconds

    @classmethod
    async def open(
        cls, connect: Callable[[Path, float], sqlite3.Connection], path: Path, timeout_seconds: float
    ) -> "Lane":
        """Connect on the lane's own thread. Raises as `run`, and what `connect` raises."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            with _as_store_errors():
                connection = await asyncio.get_running_loop().run_in_executor(thread, connect, path, timeout_seconds)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, thread, timeout_seconds)

    async def run(
        self, operation: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The operation's result, on the connection. StoreFull, StoreUnavailable where the file fails."""
        deadline = time.monotonic() + self._timeout_seconds

        def on_thread() -> T:
            # behind others that waited for a lock, a call has waited as long itself, and only tries
            left = max(0.0, deadline - time.monotonic())
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * left)}")
            return operation(self._connection, *args, **kwargs)

        with _as_store_errors():
            return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    async def close(self) -> None:
        """Close the connection after what was asked before."""
        await self.run(sqlite3.Connection.close)
        self._thread.shutdown()


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_full(error):
            raise StoreFull(f"the store's disk is full: {error}") from error
        raise StoreUnavailable(f"the store's file failed: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"the store's file cannot be opened: {error}") from error
