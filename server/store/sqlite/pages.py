"""The pages of the embedded store's file: how large, how many unused, and what of them is given back."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TOGETHER = 256  # pages that are given back at a time: a megabyte, which others wait for some milliseconds
KEPT_PART = 4  # unused pages are kept up to so small a part of the file


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


def give_back(connection: sqlite3.Connection, most: int = TOGETHER) -> int:
    """Cut up to so many unused pages off the file, and say how many bytes; of a file made before this was, none."""
    before = _page_count(connection)
    # a step gives back one page, and `execute` makes one step of what has no rows
    connection.executescript(f"PRAGMA incremental_vacuum({most})")
    return (before - _page_count(connection)) * page_bytes(connection)


def give_some_back(connection: sqlite3.Connection) -> None:
    """After a change: a few unused pages, where they are a large part of the file. Others are for what is put next."""
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    if unused > max(TOGETHER, _page_count(connection) // KEPT_PART):
        with suppress(sqlite3.OperationalError):  # busy or full: the next change tries again
            give_back(connection)


def free_bytes(connection: sqlite3.Connection) -> int:
    """In the file, where entries were removed."""
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0]) * page_bytes(connection)


def _page_count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


def page_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])
