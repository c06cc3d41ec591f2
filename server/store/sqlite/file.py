"""The SQLite file of the embedded store: how it is opened, what is in it, and how it is written."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.store.protocol import OWN_SPACE
from server.store.sqlite import schema

OWN_FILE, OWN_FOLDER = 0o600, 0o700


def connect(path: Path, busy_timeout_seconds: float, old_space: str = OWN_SPACE) -> sqlite3.Connection:
    """Open the file with the settings that make it durable; autocommit, for the thread that calls.

    A file of an earlier version is rewritten, which takes room for a second copy; `old_space` as `schema.prepare` has
    it.

    In WAL mode readers and a writer do not wait for one another; `synchronous=FULL` then syncs the log at every
    commit, where NORMAL may lose the last ones with the power (https://sqlite.org/pragma.html#pragma_synchronous).
    """
    path.parent.mkdir(mode=OWN_FOLDER, parents=True, exist_ok=True)
    # only one that is new: to close any other would give up the locks that this process has on it
    # (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWN_FILE))
    connection = sqlite3.connect(path, timeout=busy_timeout_seconds, isolation_level=None)
    try:
        # before there is a table: a file that has some stays as it is
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # one write transaction: of two processes that open a new file, one creates the tables and the other finds them
        with writing(connection):
            schema.prepare(connection, path, old_space=old_space, now=now())
        _make_private(path)
        _use_write_ahead_log(connection, busy_timeout_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path, busy_timeout_seconds: float) -> sqlite3.Connection:
    """Open the file that `connect` has prepared, for reads alone: in WAL mode none of them waits for a writer."""
    connection = sqlite3.connect(path, timeout=busy_timeout_seconds, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_full(error: sqlite3.DatabaseError) -> bool:
    """Whether an error is that of a full disk."""
    code = getattr(error, "sqlite_errorcode", 0)
    # the low byte is the primary result code (https://sqlite.org/rescode.html)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def _make_private(path: Path) -> None:
    """Of files that an earlier version made, too: documents are in them. SQLite gives the log the mode of its file."""
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError, PermissionError):  # another user's, who shares it with us
            if each.stat().st_mode & 0o077:
                each.chmod(OWN_FILE)


def _use_write_ahead_log(connection: sqlite3.Connection, busy_timeout_seconds: float) -> None:
    # SQLite does not wait its busy timeout for this switch, which fails while another process opens the same new file
    deadline = time.monotonic() + busy_timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def now() -> int:
    """In milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the body as one write transaction: all of it is committed, or nothing if it raises."""
    # IMMEDIATE takes the write lock before anything is read: a transaction that upgrades later can fail as a deadlock
    # without waiting for the busy timeout (https://sqlite.org/lang_transaction.html)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors, a full disk among them
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
