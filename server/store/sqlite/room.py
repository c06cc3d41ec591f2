"""A full disk: deletion and sweeping go on, with what was kept for them."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from server.store.sqlite import pages
from server.store.sqlite.file import is_full
from server.store.sqlite.reserve import Reserve
from server.store.sqlite.writes import sweep_all

P = ParamSpec("P")
T = TypeVar("T")

SECURE_DELETE = ("OFF", "ON", "FAST")  # as SQLite numbers them


class Room:
    """Runs operations on the writer's connection, and knows whether there is room for more."""

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        self._folder = path.parent
        self._reserve_bytes = reserve_bytes
        self._reserve = Reserve(path.with_name(f"{path.name}-reserve"), reserve_bytes)
        self._is_full = False

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Take the reserve, and have the log written back so early that the reserve has room for what is in it."""
        num_pages = self._reserve_bytes // 2 // pages.page_bytes(connection)
        connection.execute(f"PRAGMA wal_autocheckpoint = {max(1, num_pages)}")
        self._reserve.keep()

    def making(
        self,
        connection: sqlite3.Connection,
        operation: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """An operation that makes room, on the reserve where there is none."""
        try:
            return operation(connection, *args, **kwargs)
        except sqlite3.DatabaseError as error:
            if not is_full(error):
                raise
        with self._released(connection):
            return operation(connection, *args, **kwargs)

    def taking(
        self,
        connection: sqlite3.Connection,
        operation: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """An operation that takes room; where there is none, what has expired is removed first."""
        try:
            result = self._tried(connection, operation, *args, **kwargs)
        except sqlite3.DatabaseError as error:
            self._is_full = is_full(error)
            raise
        self._is_full = False
        return result

    def has_room(self, connection: sqlite3.Connection) -> bool:
        """Whether an operation that takes room may succeed: none has failed for want of it, or things have changed."""
        if self._is_full:
            with self._released(connection):
                sweep_all(connection)
            num_bytes = shutil.disk_usage(self._folder).free + pages.free_bytes(connection)
            self._is_full = not self._reserve.keep() or num_bytes < self._reserve_bytes
        return not self._is_full

    @property
    def is_full(self) -> bool:
        """Whether the last operation that took room found none."""
        return self._is_full

    def _tried(
        self,
        connection: sqlite3.Connection,
        operation: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            return operation(connection, *args, **kwargs)
        except sqlite3.DatabaseError as error:
            if not is_full(error):
                raise
        with self._released(connection):
            sweep_all(connection)
            # into pages that are free: the reserve is for the log alone, and there again after
            with pages.of_the_same_size(connection):
                return operation(connection, *args, **kwargs)

    @contextmanager
    def _released(self, connection: sqlite3.Connection) -> Iterator[None]:
        """The body has the reserve's room, and the log's."""
        self._reserve.release()
        # where SQLite was built to overwrite what is deleted, a deletion writes as much as was put
        (overwrites,) = connection.execute("PRAGMA secure_delete").fetchone()
        connection.execute("PRAGMA secure_delete = FAST").fetchall()
        try:
            pages.empty_log(connection)
            yield
        finally:
            pages.empty_log(connection)
            connection.execute(f"PRAGMA secure_delete = {SECURE_DELETE[overwrites]}").fetchall()
            self._reserve.keep()
