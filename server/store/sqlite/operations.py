"""What the store in a file does, each on a connection: reads, and writes of one transaction."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from server.store.protocol import (
    REMEMBERED_SECONDS,
    Entry,
    EntryChanged,
    EntryStat,
    MissingReferences,
    StillReferenced,
)
from server.store.sqlite.file import writing

LIVE = "(expires IS NULL OR expires > :now)"
# one parameter for any number of keys: SQLite limits how many there are
LISTED = "(SELECT value FROM json_each(:keys))"
LIVE_KEYS = f"SELECT key FROM entry WHERE {LIVE} AND key IN {LISTED}"

LENGTHEN = f"""
UPDATE entry SET expires = max(expires, :expires)
WHERE {LIVE} AND key IN {LISTED} AND expires IS NOT NULL AND (:expires IS NULL OR expires < :expires)
"""
REFERRERS = (
    f"SELECT DISTINCT referrer FROM reference JOIN entry ON key = referrer WHERE {LIVE} AND referrer IN {LISTED}"
)
LENGTHEN_REFERENCES = """
WITH RECURSIVE needed (key) AS (
    SELECT referenced FROM reference WHERE referrer = :key
    UNION SELECT referenced FROM reference JOIN needed ON referrer = needed.key
)
UPDATE entry SET expires = max(expires, (SELECT own.expires FROM entry AS own WHERE own.key = :key))
WHERE key IN needed
"""

# The rows of `content` are numbered as they were first put; an upsert keeps the number. Segments are referrers of none.
LIST_REFERRERS = f"""
SELECT key FROM content JOIN entry USING (key)
WHERE {LIVE} AND content.rowid < :before AND EXISTS (SELECT 1 FROM reference WHERE referrer = content.key)
ORDER BY content.rowid DESC LIMIT :limit
"""
# of one that is there, expired or not, or that was
PLACE = """
SELECT rowid FROM content WHERE key = :key AND EXISTS (SELECT 1 FROM reference WHERE referrer = :key)
UNION ALL SELECT place FROM departed WHERE key = :key
"""
# Before they are removed. Referrers of what has expired have expired too, and lose what tells that they were some.
DEPART = f"""
INSERT OR REPLACE INTO departed SELECT key, rowid, :until FROM content
WHERE key IN (SELECT referrer FROM reference WHERE referrer IN {LISTED} OR referenced IN {LISTED})
"""
DELETE = f"DELETE FROM entry WHERE key IN {LISTED}"
EXPIRED = f"SELECT key FROM entry WHERE expires <= :now AND key IN {LISTED}"
MAX_ROWID = 2**63 - 1

# More than a put usually adds, so that expired rows never pile up; few enough that no put notices.
SWEEP_ROWS = 64
SWEPT = f"SELECT key FROM entry WHERE expires <= :now ORDER BY expires LIMIT {SWEEP_ROWS}"
FORGET = f"""
DELETE FROM departed WHERE key IN (SELECT key FROM departed WHERE until <= :now ORDER BY until LIMIT {SWEEP_ROWS})
"""


def get_many(connection: sqlite3.Connection, keys: Sequence[str]) -> list[bytes | None]:
    rows = connection.execute(
        f"SELECT key, data FROM entry JOIN content USING (key) WHERE {LIVE} AND key IN {LISTED}",
        {"now": _now(), "keys": json.dumps(list(keys))},
    )
    values: dict[str, bytes] = dict(rows)
    return [values.get(key) for key in keys]


def exist(connection: sqlite3.Connection, keys: Sequence[str]) -> list[bool]:
    rows = connection.execute(LIVE_KEYS, {"now": _now(), "keys": json.dumps(list(keys))})
    live = {key for (key,) in rows}
    return [key in live for key in keys]


def put_many(
    connection: sqlite3.Connection,
    entries: Sequence[Entry],
    ttl_milliseconds: int | None,
    expected: Mapping[str, bytes | None],
) -> None:
    unique = {entry.key: entry for entry in entries}
    references = [(entry.key, reference) for entry in unique.values() for reference in set(entry.references)]
    with writing(connection):
        now = _now()
        _require_unchanged(connection, unique, expected)
        # first, so that what is swept makes room for what comes
        _sweep(connection, now)
        _require_live(connection, {reference for _, reference in references} - unique.keys(), now)
        # what has expired is not continued, its place in lists included
        expired = connection.execute(EXPIRED, {"now": now, "keys": json.dumps(list(unique))})
        _remove(connection, [key for (key,) in expired], now)
        expires = None if ttl_milliseconds is None else now + ttl_milliseconds
        connection.executemany(
            "INSERT INTO entry VALUES (?, ?) ON CONFLICT DO UPDATE SET expires = max(expires, excluded.expires)",
            [(key, expires) for key in unique],
        )
        connection.executemany(
            "INSERT INTO content VALUES (?, ?) ON CONFLICT DO UPDATE SET data = excluded.data",
            [(entry.key, entry.value) for entry in unique.values()],
        )
        connection.executemany("DELETE FROM reference WHERE referrer = ?", [(key,) for key in unique])
        connection.executemany("INSERT INTO reference VALUES (?, ?)", references)
        connection.executemany(LENGTHEN_REFERENCES, [{"key": key} for key in dict(references)])


def touch(connection: sqlite3.Connection, keys: Sequence[str], ttl_milliseconds: int | None) -> list[bool]:
    with writing(connection):
        now = _now()
        listed = {"now": now, "keys": json.dumps(list(keys))}
        live = {key for (key,) in connection.execute(LIVE_KEYS, listed)}
        expires = None if ttl_milliseconds is None else now + ttl_milliseconds
        connection.execute(LENGTHEN, {**listed, "expires": expires})
        connection.executemany(LENGTHEN_REFERENCES, [{"key": key} for (key,) in connection.execute(REFERRERS, listed)])
    return [key in live for key in keys]


def sweep_all(connection: sqlite3.Connection) -> int:
    """Remove everything that has expired, and say how many entries."""
    num_removed = 0
    while True:
        with writing(connection):
            num_swept = _sweep(connection, _now())
        num_removed += num_swept
        if num_swept < SWEEP_ROWS:
            return num_removed


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


def _sweep(connection: sqlite3.Connection, now: int) -> int:
    """Remove some of what has expired, and say how many entries."""
    keys = [key for (key,) in connection.execute(SWEPT, {"now": now})]
    _remove(connection, keys, now)
    connection.execute(FORGET, {"now": now})
    return len(keys)


def _remove(connection: sqlite3.Connection, keys: Sequence[str], now: int) -> None:
    """Remove entries that no live one references."""
    if keys:
        listed = json.dumps(list(keys))
        connection.execute(DEPART, {"keys": listed, "until": now + 1000 * REMEMBERED_SECONDS})
        connection.execute(DELETE, {"keys": listed})


def _require_unchanged(
    connection: sqlite3.Connection, entries: Mapping[str, Entry], expected: Mapping[str, bytes | None]
) -> None:
    for key, current in zip(expected, get_many(connection, list(expected)), strict=True):
        own = entries[key].value if key in entries else None
        if current != expected[key] and (current is None or current != own):
            raise EntryChanged(key)


def _require_live(connection: sqlite3.Connection, keys: set[str], now: int) -> None:
    rows = connection.execute(LIVE_KEYS, {"now": now, "keys": json.dumps(list(keys))})
    missing = keys.difference(key for (key,) in rows)
    if missing:
        raise MissingReferences(sorted(missing))


def delete(connection: sqlite3.Connection, key: str) -> bool:
    with writing(connection):
        now = _now()
        live = connection.execute(f"SELECT 1 FROM entry WHERE key = :key AND {LIVE}", {"key": key, "now": now})
        if live.fetchone() is None:
            return False
        if _is_referenced(connection, key, now):
            raise StillReferenced(key)
        unneeded = [key]
        while unneeded:
            removed = unneeded.pop()
            rows = connection.execute("SELECT referenced FROM reference WHERE referrer = ?", (removed,)).fetchall()
            _remove(connection, [removed], now)
            unneeded += [reference for (reference,) in rows if not _is_referenced(connection, reference, now)]
    return True


def _is_referenced(connection: sqlite3.Connection, key: str, now: int) -> bool:
    query = f"SELECT 1 FROM reference JOIN entry ON key = referrer WHERE referenced = :key AND {LIVE} LIMIT 1"
    return connection.execute(query, {"key": key, "now": now}).fetchone() is not None


def find(connection: sqlite3.Connection, key: str) -> tuple[bytes, float | None] | None:
    now = _now()
    query = f"SELECT data, expires FROM entry JOIN content USING (key) WHERE key = :key AND {LIVE}"
    row = connection.execute(query, {"key": key, "now": now}).fetchone()
    return None if row is None else (row[0], _seconds_left(row[1], now))


def stat(connection: sqlite3.Connection, key: str) -> EntryStat | None:
    now = _now()
    query = f"SELECT length(data), expires FROM entry JOIN content USING (key) WHERE key = :key AND {LIVE}"
    row = connection.execute(query, {"key": key, "now": now}).fetchone()
    if row is None:
        return None
    size_bytes, expires = row
    return EntryStat(size_bytes, _seconds_left(expires, now))


def list_referrers(connection: sqlite3.Connection, limit: int, after: str | None) -> list[str] | None:
    now = _now()
    before = MAX_ROWID
    if after is not None:
        row = connection.execute(PLACE, {"key": after}).fetchone()
        if row is None:
            return None
        before = row[0]
    rows = connection.execute(LIST_REFERRERS, {"now": now, "before": before, "limit": limit})
    return [key for (key,) in rows]


def _seconds_left(expires: int | None, now: int) -> float | None:
    return None if expires is None else (expires - now) / 1000


def ping(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _now() -> int:
    return time.time_ns() // 1_000_000
