"""What the store in a file is asked, each question on a connection."""

import json
import sqlite3
from collections.abc import Sequence

from server.store.protocol import Entry, EntryStat, Kept, SpaceStats
from server.store.sqlite.file import now

LIVE = "(expires IS NULL OR expires > :now)"
# one parameter for any number of keys: SQLite limits how many there are
LISTED = "(SELECT value FROM json_each(:keys))"
LIVE_KEYS = f"SELECT key FROM entry WHERE {LIVE} AND space = :space AND key IN {LISTED}"

LIST_REFERRERS = f"""
SELECT key FROM entry WHERE space = :space AND is_document AND {LIVE} AND id < :before ORDER BY id DESC LIMIT :limit
"""
# of one that is there, expired or not, or that was
PLACE = """
SELECT id FROM entry WHERE space = :space AND key = :key AND is_document
UNION ALL SELECT place FROM departed WHERE space = :space AND key = :key
"""
WHOLE = f"""
SELECT key, data, is_pinned, expires FROM entry JOIN content USING (id)
WHERE {LIVE} AND space = :space AND key IN {LISTED}
"""
REFERENCES = f"""
SELECT referrers.key, entry.key FROM entry AS referrers
JOIN reference ON referrer = referrers.id JOIN entry ON entry.id = referenced
WHERE referrers.space = :space AND referrers.key IN {LISTED} ORDER BY referenced
"""
STATS = f"""
SELECT space, count(*), sum(is_document), sum(size_bytes) FROM entry WHERE {LIVE} GROUP BY space ORDER BY space
"""
MAX_ROWID = 2**63 - 1


def get_many(connection: sqlite3.Connection, space: str, keys: Sequence[str]) -> list[bytes | None]:
    rows = connection.execute(
        f"SELECT key, data FROM entry JOIN content USING (id) WHERE {LIVE} AND space = :space AND key IN {LISTED}",
        {"now": now(), "space": space, "keys": json.dumps(list(keys))},
    )
    values: dict[str, bytes] = dict(rows)
    return [values.get(key) for key in keys]


def exist(connection: sqlite3.Connection, space: str, keys: Sequence[str]) -> list[bool]:
    rows = connection.execute(LIVE_KEYS, {"now": now(), "space": space, "keys": json.dumps(list(keys))})
    live = {key for (key,) in rows}
    return [key in live for key in keys]


def find(connection: sqlite3.Connection, space: str, key: str) -> tuple[bytes, float | None] | None:
    at = now()
    query = f"SELECT data, expires FROM entry JOIN content USING (id) WHERE space = :space AND key = :key AND {LIVE}"
    row = connection.execute(query, {"space": space, "key": key, "now": at}).fetchone()
    return None if row is None else (row[0], _seconds_left(row[1], at))


def read(connection: sqlite3.Connection, space: str, keys: Sequence[str]) -> list[Kept | None]:
    at = now()
    asked = {"now": at, "space": space, "keys": json.dumps(list(keys))}
    connection.execute("BEGIN")  # both queries see one moment
    try:
        rows = connection.execute(WHOLE, asked).fetchall()
        references: dict[str, list[str]] = {}
        for referrer, referenced in connection.execute(REFERENCES, asked):
            references.setdefault(referrer, []).append(referenced)
    finally:
        connection.execute("COMMIT")
    found = {
        key: Kept(Entry(key, data, tuple(references.get(key, ())), bool(is_pinned)), _seconds_left(expires, at))
        for key, data, is_pinned, expires in rows
    }
    return [found.get(key) for key in keys]


def stat(connection: sqlite3.Connection, space: str, key: str) -> EntryStat | None:
    at = now()
    query = f"SELECT size_bytes, expires FROM entry WHERE space = :space AND key = :key AND {LIVE}"
    row = connection.execute(query, {"space": space, "key": key, "now": at}).fetchone()
    if row is None:
        return None
    size_bytes, expires = row
    return EntryStat(size_bytes, _seconds_left(expires, at))


def list_referrers(connection: sqlite3.Connection, space: str, limit: int, after: str | None) -> list[str] | None:
    before = MAX_ROWID
    if after is not None:
        row = connection.execute(PLACE, {"space": space, "key": after}).fetchone()
        if row is None:
            return None
        before = row[0]
    asked = {"now": now(), "space": space, "before": before, "limit": limit}
    return [key for (key,) in connection.execute(LIST_REFERRERS, asked)]


def keys_after(connection: sqlite3.Connection, space: str, after: str, limit: int) -> list[str]:
    """Keys of live entries in their order, beginning behind one."""
    query = f"SELECT key FROM entry WHERE space = :space AND key > :after AND {LIVE} ORDER BY key LIMIT :limit"
    rows = connection.execute(query, {"now": now(), "space": space, "after": after, "limit": limit})
    return [key for (key,) in rows]


def stats(connection: sqlite3.Connection) -> list[SpaceStats]:
    return [SpaceStats(*row) for row in connection.execute(STATS, {"now": now()})]


def size_bytes(connection: sqlite3.Connection, space: str) -> int:
    """Of all values of a space, those included that have expired and are not swept yet."""
    row = connection.execute("SELECT bytes FROM space WHERE name = ?", (space,)).fetchone()
    return 0 if row is None else int(row[0])


def total_bytes(connection: sqlite3.Connection) -> int:
    """Of all values, those included that have expired and are not swept yet."""
    return int(connection.execute("SELECT bytes FROM total").fetchone()[0])


def _seconds_left(expires: int | None, at: int) -> float | None:
    return None if expires is None else (expires - at) / 1000
