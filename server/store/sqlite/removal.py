"""Entries that go: deleted, expired, or evicted to make room; each within a transaction that the caller has begun."""

import json
import sqlite3
from collections.abc import Sequence

from server.store.protocol import REMEMBERED_SECONDS, QuotaExceeded, StoreFull
from server.store.sqlite.reads import LIVE, size_bytes, total_bytes

IDS = "(SELECT value FROM json_each(:ids))"
# before they are removed
DEPART = f"""
INSERT OR REPLACE INTO departed SELECT space, key, id, :until FROM entry WHERE id IN {IDS} AND is_document
"""
DELETE = f"DELETE FROM entry WHERE id IN {IDS}"

# More than a put usually adds, so that expired rows never pile up; few enough that no put notices.
SWEEP_ROWS = 64
SWEPT = f"SELECT id FROM entry WHERE expires <= :now ORDER BY expires LIMIT {SWEEP_ROWS}"
FORGET = f"""
DELETE FROM departed WHERE (space, key) IN
    (SELECT space, key FROM departed WHERE until <= :now ORDER BY until LIMIT {SWEEP_ROWS})
"""
IS_REFERENCED = f"SELECT 1 FROM reference JOIN entry ON id = referrer WHERE referenced = :id AND {LIVE} LIMIT 1"
# when nothing is left that has expired
LEAST_RECENT = f"""
SELECT id FROM entry WHERE is_document AND NOT is_pinned AND id NOT IN {IDS}
AND NOT EXISTS (SELECT 1 FROM reference WHERE referenced = id) ORDER BY used LIMIT 1
"""


def remove(connection: sqlite3.Connection, ids: Sequence[int], now: int) -> None:
    """Remove entries that no live one references."""
    if ids:
        listed = json.dumps(list(ids))
        connection.execute(DEPART, {"ids": listed, "until": now + 1000 * REMEMBERED_SECONDS})
        connection.execute(DELETE, {"ids": listed})


def remove_whole(connection: sqlite3.Connection, first: int, now: int) -> None:
    """Remove an entry that no live one references, and whatever of what it references no other live one does."""
    unneeded = [first]
    while unneeded:
        removed = unneeded.pop()
        rows = connection.execute("SELECT referenced FROM reference WHERE referrer = ?", (removed,)).fetchall()
        remove(connection, [removed], now)
        unneeded += [reference for (reference,) in rows if not is_referenced(connection, reference, now)]


def is_referenced(connection: sqlite3.Connection, entry: int, now: int) -> bool:
    return connection.execute(IS_REFERENCED, {"id": entry, "now": now}).fetchone() is not None


def sweep(connection: sqlite3.Connection, now: int) -> int:
    """Remove some of what has expired, at most `SWEEP_ROWS`, and say how many entries."""
    ids = [entry for (entry,) in connection.execute(SWEPT, {"now": now})]
    remove(connection, ids, now)
    connection.execute(FORGET, {"now": now})
    return len(ids)


def require_within(connection: sqlite3.Connection, space: str, quota: int, before: int, now: int) -> None:
    """Refuse what has grown beyond a space's bytes; what has expired is removed before that is said.

    Args:
        before: how many bytes it had.

    Raises:
        QuotaExceeded: it has more, and more than before.
    """
    while (size := size_bytes(connection, space)) > max(quota, before):
        if not sweep(connection, now):
            raise QuotaExceeded(size, quota)


def evict(connection: sqlite3.Connection, max_bytes: int, now: int, *, kept: Sequence[int]) -> int:
    """Remove documents, the least recently used first, until all values have so many bytes at most.

    Args:
        kept: documents that stay, beside those that are pinned and those that others reference.

    Returns:
        How many documents.

    Raises:
        StoreFull: what is left has more bytes, and nothing of it may go.
    """
    num_evicted = 0
    while total_bytes(connection) > max_bytes:
        if sweep(connection, now):
            continue
        row = connection.execute(LEAST_RECENT, {"ids": json.dumps(list(kept))}).fetchone()
        if row is None:
            raise StoreFull(
                f"with this put the store has {total_bytes(connection)} bytes, and the limit is {max_bytes}; all that "
                "may be evicted would not make the room"
            )
        remove_whole(connection, row[0], now)
        num_evicted += 1
    return num_evicted
