"""What the store in a file does, each in one transaction of a connection."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from server.store.protocol import Entry, EntryChanged, MissingReferences, StillReferenced
from server.store.sqlite import pages, removal
from server.store.sqlite.file import now, writing
from server.store.sqlite.reads import LISTED, LIVE, LIVE_KEYS, get_many, size_bytes, total_bytes
from server.store.uses import Used

PUT = """
INSERT INTO entry (space, key, expires, size_bytes, is_document, is_pinned, used) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET expires = max(expires, excluded.expires), size_bytes = excluded.size_bytes,
    is_document = excluded.is_document, is_pinned = excluded.is_pinned, used = excluded.used
"""
PUT_CONTENT = "INSERT INTO content VALUES (?, ?) ON CONFLICT DO UPDATE SET data = excluded.data"
PUT_REFERENCE = "INSERT INTO reference SELECT ?, id FROM entry WHERE space = ? AND key = ?"
IDS = f"SELECT key, id FROM entry WHERE space = :space AND key IN {LISTED}"
EXPIRED = f"SELECT id FROM entry WHERE expires <= :now AND space = :space AND key IN {LISTED}"

TOUCH = f"""
UPDATE entry SET used = :now, expires = max(expires, :expires) WHERE {LIVE} AND space = :space AND key IN {LISTED}
"""
REFERRERS = f"SELECT id FROM entry WHERE {LIVE} AND is_document AND space = :space AND key IN {LISTED}"
LENGTHEN_REFERENCES = """
WITH RECURSIVE needed (id) AS (
    SELECT referenced FROM reference WHERE referrer = :id
    UNION SELECT referenced FROM reference JOIN needed ON referrer = needed.id
)
UPDATE entry SET expires = max(expires, (SELECT own.expires FROM entry AS own WHERE own.id = :id)) WHERE id IN needed
"""
USE = f"UPDATE entry SET used = :now WHERE is_document AND space = :space AND key IN {LISTED}"


class Stored(NamedTuple):
    """What a put came to: bytes of all values after it, and how many documents went for it."""

    total_bytes: int
    num_evicted: int


def put_many(
    connection: sqlite3.Connection,
    space: str,
    entries: Sequence[Entry],
    *,
    ttl_milliseconds: int | None,
    expected: Mapping[str, bytes | None],
    max_bytes: int | None,
    quota: int | None,
    used: Used,
) -> Stored:
    unique = {entry.key: entry for entry in entries}
    references = [(entry.key, reference) for entry in unique.values() for reference in set(entry.references)]
    with writing(connection):
        at = now()
        _require_unchanged(connection, space, unique, expected)
        # first, so that what is swept makes room for what comes
        removal.sweep(connection, at)
        before = size_bytes(connection, space)
        _require_live(connection, space, {reference for _, reference in references} - unique.keys(), at)
        listed = {"now": at, "space": space, "keys": json.dumps(list(unique))}
        # what has expired is not continued, its place in lists included
        removal.remove(connection, [entry for (entry,) in connection.execute(EXPIRED, listed)], at)
        expires = None if ttl_milliseconds is None else at + ttl_milliseconds
        connection.executemany(
            PUT,
            [
                (space, key, expires, len(entry.value), bool(entry.references), entry.is_pinned, at)
                for key, entry in unique.items()
            ],
        )
        ids: dict[str, int] = dict(connection.execute(IDS, listed).fetchall())
        connection.executemany(PUT_CONTENT, [(ids[key], entry.value) for key, entry in unique.items()])
        connection.executemany("DELETE FROM reference WHERE referrer = ?", [(entry,) for entry in ids.values()])
        connection.executemany(PUT_REFERENCE, [(ids[key], space, reference) for key, reference in references])
        connection.executemany(LENGTHEN_REFERENCES, [{"id": ids[key]} for key in dict(references)])
        if quota is not None:
            removal.require_within(connection, space, quota, before, at)
        _write_uses(connection, used, at)
        num_evicted = 0
        if max_bytes is not None:
            num_evicted = removal.evict(connection, max_bytes, at, kept=list(ids.values()))
        stored = Stored(total_bytes(connection), num_evicted)
    pages.give_some_back(connection)
    return stored


def touch(connection: sqlite3.Connection, space: str, keys: Sequence[str], ttl_milliseconds: int | None) -> list[bool]:
    with writing(connection):
        at = now()
        listed = {"now": at, "space": space, "keys": json.dumps(list(keys))}
        live = {key for (key,) in connection.execute(LIVE_KEYS, listed)}
        connection.execute(TOUCH, {**listed, "expires": None if ttl_milliseconds is None else at + ttl_milliseconds})
        connection.executemany(
            LENGTHEN_REFERENCES, [{"id": entry} for (entry,) in connection.execute(REFERRERS, listed)]
        )
    return [key in live for key in keys]


def delete(connection: sqlite3.Connection, space: str, key: str) -> bool:
    with writing(connection):
        at = now()
        query = f"SELECT id FROM entry WHERE space = :space AND key = :key AND {LIVE}"
        live = connection.execute(query, {"space": space, "key": key, "now": at}).fetchone()
        if live is None:
            return False
        if removal.is_referenced(connection, live[0], at):
            raise StillReferenced(key)
        removal.remove_whole(connection, live[0], at)
    pages.give_some_back(connection)
    return True


def write_uses(connection: sqlite3.Connection, used: Used) -> None:
    """These documents were used just now."""
    with writing(connection):
        _write_uses(connection, used, now())


def sweep_all(connection: sqlite3.Connection) -> int:
    """Remove everything that has expired, and say how many entries."""
    num_removed = 0
    while True:
        with writing(connection):
            num_swept = removal.sweep(connection, now())
        num_removed += num_swept
        if num_swept < removal.SWEEP_ROWS:
            return num_removed


def _write_uses(connection: sqlite3.Connection, used: Used, at: int) -> None:
    connection.executemany(
        USE, [{"now": at, "space": space, "keys": json.dumps(list(keys))} for space, keys in used.items()]
    )


def _require_unchanged(
    connection: sqlite3.Connection, space: str, entries: Mapping[str, Entry], expected: Mapping[str, bytes | None]
) -> None:
    for key, current in zip(expected, get_many(connection, space, list(expected)), strict=True):
        own = entries[key].value if key in entries else None
        if current != expected[key] and (current is None or current != own):
            raise EntryChanged(key)


def _require_live(connection: sqlite3.Connection, space: str, keys: set[str], at: int) -> None:
    rows = connection.execute(LIVE_KEYS, {"now": at, "space": space, "keys": json.dumps(list(keys))})
    missing = keys.difference(key for (key,) in rows)
    if missing:
        raise MissingReferences(sorted(missing))
