"""What only the store in a file promises."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from server.store import EmbeddedStore, Entry, StillReferenced, StoreError, StoreFull, StoreUnavailable, Swept
from server.store.sqlite import schema
from server.store.sqlite import store as embedded
from server.store.sqlite.file import connect, writing

ROOT = Path(__file__).parents[2]

PUT_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from server.store import EmbeddedStore, Entry

async def main():
    store = await EmbeddedStore.open(Path(sys.argv[1]))
    await store.put_many([Entry("s", b"segment" * 10_000), Entry("m", b"manifest", ("s",))])
    print("acknowledged", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""

PUT_IN_TURNS = """
import asyncio, sys
from pathlib import Path
from server.store import EmbeddedStore, Entry

async def main():
    store = await EmbeddedStore.open(Path(sys.argv[1]))
    for number in range(30):
        name = f"{sys.argv[2]}:{number}"
        await store.put_many([Entry(f"segment:{name}", b"s"), Entry(name, b"m", (f"segment:{name}", "shared"))])
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "summaries.sqlite3"


def run_python(source: str, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", source, *arguments], env=environment, stdout=subprocess.PIPE)


def row_count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return count


async def test_an_acknowledged_put_survives_a_kill(path: Path) -> None:
    with run_python(PUT_AND_WAIT, str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"acknowledged\n"
        process.send_signal(signal.SIGKILL)
    store = await EmbeddedStore.open(path)
    assert await store.get_many(["s", "m"]) == [b"segment" * 10_000, b"manifest"]
    await store.close()


def test_every_commit_is_synced(path: Path) -> None:
    """A kill leaves the system's cache, so only the setting shows that a put survives the power: 2 is FULL."""
    connection = connect(path, busy_timeout_seconds=1)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    connection.close()


def test_a_write_that_fails_half_way_is_undone(path: Path) -> None:
    connection = connect(path, busy_timeout_seconds=1)

    def insert_and_fail() -> None:
        with writing(connection):
            connection.execute("INSERT INTO departed VALUES ('server', 'a', 1, 1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert_and_fail()
    connection.close()
    assert row_count(path, "departed") == 0


async def test_two_processes_write_one_file(path: Path) -> None:
    store = await EmbeddedStore.open(path)
    await store.put_many([Entry("shared", b"1")])
    with run_python(PUT_IN_TURNS, str(path), "a") as first, run_python(PUT_IN_TURNS, str(path), "b") as second:
        pass
    assert (first.returncode, second.returncode) == (0, 0)
    manifests = [f"{process}:{number}" for process in "ab" for number in range(30)]
    assert await store.get_many(manifests) == [b"m"] * 60
    await store.close()


async def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """The switch to the write-ahead log failed at once where another opened the same new file."""
    for number in range(15):
        opening = [EmbeddedStore.open(tmp_path / f"{number}.sqlite3") for _ in range(8)]
        for store in await asyncio.gather(*opening):
            await store.close()


async def test_a_file_of_another_version_is_refused(path: Path) -> None:
    connection = connect(path, busy_timeout_seconds=1)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreError, match="schema version 7, and this program reads version 3"):
        await EmbeddedStore.open(path)


VERSION_1 = """
CREATE TABLE entry (key TEXT PRIMARY KEY, expires INTEGER) WITHOUT ROWID;
CREATE INDEX entry_expires ON entry (expires) WHERE expires IS NOT NULL;
CREATE TABLE content (key TEXT PRIMARY KEY REFERENCES entry ON DELETE CASCADE, data BLOB NOT NULL);
CREATE TABLE reference (
    referrer TEXT REFERENCES entry ON DELETE CASCADE,
    referenced TEXT REFERENCES entry ON DELETE CASCADE,
    PRIMARY KEY (referrer, referenced)
) WITHOUT ROWID;
CREATE INDEX reference_referenced ON reference (referenced);
CREATE TABLE departed (key TEXT PRIMARY KEY, place INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX departed_until ON departed (until);
INSERT INTO entry VALUES ('segment:a', NULL), ('segment:b', 4000000000000), ('manifest:1', NULL),
    ('manifest:2', 4000000000000), ('response:0f:resp_1', 4000000000000), ('secret:export', NULL), ('old', 1);
INSERT INTO content (rowid, key, data) VALUES (1, 'segment:a', 'AA'), (2, 'manifest:2', 'two'), (3, 'segment:b', 'B'),
    (4, 'manifest:1', 'one'), (7, 'response:0f:resp_1', 'said'), (8, 'secret:export', 'key'), (9, 'old', 'gone');
UPDATE content SET data = CAST(data AS BLOB);
INSERT INTO reference VALUES ('manifest:1', 'segment:a'), ('manifest:2', 'segment:a'), ('manifest:2', 'segment:b');
INSERT INTO departed VALUES ('manifest:3', 3, 4000000000000);
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("additions", ["", "DROP TABLE departed;"], ids=["last", "first"])
async def test_a_file_of_before_there_were_spaces_is_migrated(path: Path, additions: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1 + additions)
    connection.close()
    for _ in range(2):  # and is then as any other
        store = await EmbeddedStore.open(path, old_space="own")
        own = store.space("own")
        assert await own.get_many(["segment:a", "segment:b", "manifest:1"]) == [b"AA", b"B", b"one"]
        assert await own.list_referrers(limit=5) == ["manifest:1", "manifest:2"]
        assert await own.list_referrers(limit=5, after="manifest:3") == (None if additions else ["manifest:2"])
        assert await own.get_many(["old", "secret:export", "response:0f:resp_1"]) == [None] * 3
        assert await store.get_many(["secret:export"]) == [b"key"]
        assert await store.space("0f").get_many(["response:resp_1"]) == [b"said"]
        stat = await own.stat("manifest:2")
        assert stat is not None
        assert stat.seconds_to_live is not None
        with pytest.raises(StillReferenced):
            await own.delete("segment:a")
        assert [each.size_bytes for each in await store.stats()] == [4, 9, 3]
        assert await store.space("0f").size_bytes() == 4
        assert row_count(path, "sqlite_schema WHERE name LIKE 'old%'") == 0
        await store.close()
    store = await EmbeddedStore.open(path)
    assert await store.space("own").delete("manifest:2")
    assert await store.space("own").exist(["segment:a", "segment:b"]) == [True, False]
    await store.close()


TO_VERSION_2 = """
DROP TABLE space;
DROP TRIGGER entry_put; DROP TRIGGER entry_replaced; DROP TRIGGER entry_removed;
CREATE TRIGGER entry_put AFTER INSERT ON entry BEGIN UPDATE total SET bytes = bytes + new.size_bytes; END;
CREATE TRIGGER entry_replaced AFTER UPDATE OF size_bytes ON entry BEGIN
    UPDATE total SET bytes = bytes + new.size_bytes - old.size_bytes; END;
CREATE TRIGGER entry_removed AFTER DELETE ON entry BEGIN UPDATE total SET bytes = bytes - old.size_bytes; END;
PRAGMA user_version = 2;
"""


async def test_a_file_that_did_not_count_the_bytes_of_spaces_is_migrated(path: Path) -> None:
    store = await EmbeddedStore.open(path)
    for name in ("one", "two"):
        await store.space(name).put_many([Entry("a", b"1234"), Entry("b", name.encode())])
    await store.close()
    connection = sqlite3.connect(path)
    connection.executescript(TO_VERSION_2)
    connection.close()
    store = await EmbeddedStore.open(path)
    one = store.space("one")
    assert [await one.size_bytes(), await store.space("two").size_bytes()] == [7, 7]
    await one.put_many([Entry("b", b"longer"), Entry("c", b"1")])
    await one.delete("a")
    assert [await one.size_bytes(), await store.space("two").size_bytes()] == [7, 7]
    await store.close()


async def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="schema version 0"):
        await EmbeddedStore.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_unavailable(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await EmbeddedStore.open(path)


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await EmbeddedStore.open(tmp_path / "file" / "summaries.sqlite3")


async def test_a_full_disk_is_store_full_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect_small(path: Path, busy_timeout_seconds: float, **_: str) -> sqlite3.Connection:
        connection = connect(path, busy_timeout_seconds)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr(embedded, "connect", connect_small)
    store = await EmbeddedStore.open(path)
    await store.put_many([Entry("a", b"old"), Entry("large", b"x" * 50_000)])
    with pytest.raises(StoreFull):
        await store.put_many([Entry("a", b"new"), Entry("b", b"x" * 200_000)])
    assert await store.get_many(["a", "b"]) == [b"old", None]
    assert await store.delete("large")
    await store.put_many([Entry("a", b"y" * 50_000)])
    await store.close()


async def test_a_file_locked_for_too_long_is_unavailable_and_the_loop_goes_on(path: Path) -> None:
    store = await EmbeddedStore.open(path, busy_timeout_seconds=0.2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    put = asyncio.create_task(store.put_many([Entry("a", b"1")]))
    await asyncio.sleep(0.05)
    assert not put.done()
    with pytest.raises(StoreUnavailable, match="locked"):
        await put
    other.execute("ROLLBACK")
    other.close()
    await store.put_many([Entry("a", b"1")])
    await store.close()


async def test_reads_do_not_wait_behind_writes_to_a_locked_file(path: Path) -> None:
    """Eight puts in line waited five seconds each, and every read behind them for all."""
    store = await EmbeddedStore.open(path, busy_timeout_seconds=0.5)
    await store.put_many([Entry("s", b"0"), Entry("a", b"1", ("s",))])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    puts = [asyncio.create_task(store.put_many([Entry(f"{number}", b"2")])) for number in range(8)]
    await asyncio.sleep(0)
    assert await store.get_many(["a", "0"]) == [b"1", None]
    assert await store.find("a") == (b"1", None)
    assert await store.list_referrers(limit=1) == ["a"]
    assert await store.exist(["a"]) == [True]
    await store.ping()
    assert time.monotonic() - started < 0.3
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 8
    assert 0.4 < time.monotonic() - started < 1.5
    other.execute("ROLLBACK")
    other.close()
    await store.put_many([Entry("a", b"3")])
    assert await store.get_many(["a"]) == [b"3"]
    await store.close()


@pytest.mark.parametrize("is_made", [True, False])
async def test_what_is_stored_is_for_this_user_alone(tmp_path: Path, is_made: bool) -> None:
    """The file and its log were readable for everyone, under the usual umask; earlier versions made such."""
    path = tmp_path / "data" / "summaries.sqlite3"
    if is_made:
        path.parent.mkdir(mode=0o755)
        path.touch(0o644)
    store = await EmbeddedStore.open(path)
    await store.put_many([Entry("a", b"1")])
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert {f"{path.name}-wal", f"{path.name}-shm"} < modes.keys()
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == (0o755 if is_made else 0o700)
    await store.close()


async def test_writes_sweep_what_has_expired(path: Path) -> None:
    store = await EmbeddedStore.open(path)
    expiring = [Entry("m", b"1", ("s",)), Entry("s", b"2"), *(Entry(f"{number}", b"3") for number in range(50))]
    await store.put_many(expiring, ttl_seconds=0.02)
    await asyncio.sleep(0.05)
    assert row_count(path, "content") == 52
    await store.put_many([Entry("a", b"4")])
    await store.close()
    assert [row_count(path, table) for table in ("entry", "content", "reference")] == [1, 1, 0]


def num_bytes(path: Path) -> int:
    """Of all pages, those that are in the log alone counted as if they were in the file."""
    with closing(sqlite3.connect(path)) as connection:
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * size)


async def test_the_file_shrinks_when_what_was_in_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    store = await EmbeddedStore.open(path)
    for number in range(40):
        await store.put_many([Entry(f"s{number}", bytes(200_000)), Entry(f"m{number}", b"1", (f"s{number}",))])
    for number in range(8):
        await store.delete(f"m{number}")
    assert num_bytes(path) > 8_000_000  # a small part is kept for the next put
    for number in range(8, 39):
        await store.delete(f"m{number}")
    before = num_bytes(path)
    assert before < 2_500_000  # a megabyte went with each deletion
    swept = await store.sweep()
    assert path.stat().st_size == num_bytes(path) == before - swept.freed_bytes
    assert path.stat().st_size < 400_000
    assert await store.list_referrers(limit=5) == ["m39"]
    assert (await store.get_many(["s39"])) == [bytes(200_000)]
    assert (await store.sweep()).freed_bytes == 0
    await store.close()


async def test_a_file_of_before_it_could_shrink_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        schema.prepare(old, path, old_space="server", now=0)
    store = await EmbeddedStore.open(path)
    await store.put_many([Entry("s", bytes(2_000_000))])
    await store.delete("s")
    assert await store.sweep() == Swept(0, 0)
    await store.close()
