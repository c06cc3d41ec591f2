"""The tables of the embedded store, and how those of an earlier version become these."""

import sqlite3
from pathlib import Path

from server.store.protocol import OWN_SPACE, StoreError

SCHEMA_VERSION = 3

# Values stand apart: an UPDATE rewrites its whole row, and lengthening a document's segments must not write all of its
# vectors again. `expires` and `used` are in milliseconds since the epoch; an `expires` of NULL is never, and max() of
# SQLite gives NULL when either argument is NULL, so it takes the later of two expiries as it stands. Entries are
# numbered as they were first put, which is the order of lists; `is_document` are those that reference others.
# `departed` has the places of documents that are gone, so that lists go on after them; `total` how many bytes all
# values have and `space` how many those of each space, kept by triggers as a sum over all rows would take too long.
BYTES = (
    "CREATE TABLE space (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TRIGGER entry_put AFTER INSERT ON entry BEGIN
        UPDATE total SET bytes = bytes + new.size_bytes;
        INSERT INTO space VALUES (new.space, new.size_bytes) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    END""",
    """CREATE TRIGGER entry_replaced AFTER UPDATE OF size_bytes ON entry BEGIN
        UPDATE total SET bytes = bytes + new.size_bytes - old.size_bytes;
        UPDATE space SET bytes = bytes + new.size_bytes - old.size_bytes WHERE name = new.space;
    END""",
    """CREATE TRIGGER entry_removed AFTER DELETE ON entry BEGIN
        UPDATE total SET bytes = bytes - old.size_bytes;
        UPDATE space SET bytes = bytes - old.size_bytes WHERE name = old.space;
    END""",
)
SCHEMA = (
    """CREATE TABLE entry (
        id INTEGER PRIMARY KEY, space TEXT NOT NULL, key TEXT NOT NULL, expires INTEGER, size_bytes INTEGER NOT NULL,
        is_document INTEGER NOT NULL, is_pinned INTEGER NOT NULL, used INTEGER NOT NULL, UNIQUE (space, key)
    )""",
    "CREATE INDEX entry_expires ON entry (expires) WHERE expires IS NOT NULL",
    "CREATE INDEX entry_listed ON entry (space, id) WHERE is_document",
    "CREATE INDEX entry_used ON entry (used) WHERE is_document AND NOT is_pinned",
    "CREATE TABLE content (id INTEGER PRIMARY KEY REFERENCES entry ON DELETE CASCADE, data BLOB NOT NULL)",
    """CREATE TABLE reference (
        referrer INTEGER REFERENCES entry ON DELETE CASCADE, referenced INTEGER REFERENCES entry ON DELETE CASCADE,
        PRIMARY KEY (referrer, referenced)
    ) WITHOUT ROWID""",
    "CREATE INDEX reference_referenced ON reference (referenced)",
    """CREATE TABLE departed (
        space TEXT, key TEXT, place INTEGER NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (space, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX departed_until ON departed (until)",
    "CREATE TABLE total (bytes INTEGER NOT NULL)",
    "INSERT INTO total VALUES (0)",
    *BYTES,
)

# Version 1 had one space for all. What belonged to nobody was under `secret:`, and responses under the account whose
# they were (`response:ACCOUNT:ID`); all else goes to the space that the caller names.
SPACE = f"""CASE WHEN key LIKE 'secret:%' THEN '{OWN_SPACE}'
    WHEN key LIKE 'response:%:%' THEN substr(key, 10, instr(substr(key, 10), ':') - 1) ELSE :space END"""
KEY = """CASE WHEN key LIKE 'response:%:%' THEN 'response:' || substr(key, 10 + instr(substr(key, 10), ':'))
    ELSE key END"""
OLD_TABLES = ("entry", "content", "reference", "departed")
FROM_VERSION_1 = (
    "CREATE TABLE IF NOT EXISTS departed (key TEXT PRIMARY KEY, place INTEGER, until INTEGER) WITHOUT ROWID",
    "DROP INDEX entry_expires",
    "DROP INDEX reference_referenced",
    "DROP INDEX IF EXISTS departed_until",
    *(f"ALTER TABLE {name} RENAME TO old_{name}" for name in OLD_TABLES),
    *SCHEMA,
    f"""INSERT INTO entry SELECT old_content.rowid, {SPACE}, {KEY}, expires, length(data),
        EXISTS (SELECT 1 FROM old_reference WHERE referrer = key), 0, :now
        FROM old_entry JOIN old_content USING (key)""",
    "INSERT INTO content SELECT rowid, data FROM old_content",
    """INSERT INTO reference SELECT one.rowid, other.rowid FROM old_reference
        JOIN old_content AS one ON one.key = referrer JOIN old_content AS other ON other.key = referenced""",
    "INSERT INTO departed SELECT :space, key, place, until FROM old_departed",
    *(f"DROP TABLE old_{name}" for name in ("reference", "content", "departed", "entry")),
)
# Version 2 knew the bytes of all spaces alone.
FROM_VERSION_2 = (
    *(f"DROP TRIGGER {name}" for name in ("entry_put", "entry_replaced", "entry_removed")),
    *BYTES,
    "INSERT INTO space SELECT space, sum(size_bytes) FROM entry GROUP BY space",
)


def prepare(connection: sqlite3.Connection, path: Path, *, old_space: str, now: int) -> None:
    """Make the tables, or those of an earlier version into these; in one transaction that the caller has begun.

    Args:
        old_space: whose entries become what a file has of before there were spaces.
        now: milliseconds since the epoch, when such entries count as used.

    Raises:
        StoreError: the file is of another program or of another version of this one.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if version == SCHEMA_VERSION:
        return
    if version == 0 and is_empty:
        for statement in SCHEMA:
            connection.execute(statement)
    elif version == 1:
        for statement in FROM_VERSION_1:
            connection.execute(statement, {"space": old_space, "now": now})
    elif version == 2:
        for statement in FROM_VERSION_2:
            connection.execute(statement)
    else:
        raise StoreError(f"{path} has schema version {version}, and this program reads version {SCHEMA_VERSION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
