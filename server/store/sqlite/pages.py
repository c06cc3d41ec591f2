"""The pages of the embedded store's file: how large, how many unused, and what of them is given back."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def empty_log(connection: sqlite3.Connection) -> None:
    """Write the log back to the file and cut it off, if nobody reads it just now."""
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextmanager
def of_the_same_size(connection: sqlite3.Connection) -> Iterator[None]:
    """While the body runs the file does not grow: what needs more pages fails as on a full disk."""
    (most,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("max_page_count", "page_count"))
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    try:
        yield
    finally:
        connection.execute(f"PRAGMA max_page_count = {most}").fetchall()


def free_bytes(connection: sqlite3.Connection) -> int:
    """In the file, where entries were removed."""
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0]) * page_bytes(connection)


def page_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])
