"""What docs/operations.md says of backups: a copy that is made while the store is written to, restored elsewhere."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.store import Entry, SummaryStore, open_store
from tests.redis_server import running_redis

ROOT = Path(__file__).parents[2]
BEFORE = [Entry(f"segment:{number}", bytes([number]) * 20_000) for number in range(50)]
SUMMARY = Entry("summary", b"names them", tuple(entry.key for entry in BEFORE))


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[SummaryStore]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def _written_while(store: SummaryStore, command: list[str]) -> str:
    """What the command prints, with writes to the store until it ends."""
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2)
    telling = asyncio.create_task(process.communicate())
    number = 0
    while not telling.done():
        await store.put_many([Entry(f"meanwhile:{number}", b"x" * 5_000)], ttl_seconds=60)
        number += 1
    printed = (await telling)[0].decode()
    assert process.returncode == 0, printed
    assert number > 0
    return printed


async def _holds_what_was_before(store: SummaryStore) -> bool:
    found = await store.get_many([SUMMARY.key, *SUMMARY.references])
    return found == [entry.value for entry in (SUMMARY, *BEFORE)] and await store.list_referrers(limit=9) == ["summary"]


def _documented(program: str) -> str:
    """The Python program of operations.md that names this."""
    (found,) = re.findall(rf"python -c '([^']*{program}[^']*)'", (ROOT / "docs" / "operations.md").read_text())
    return str(found)


async def test_a_copy_of_the_embedded_store(tmp_path: Path) -> None:
    source, copy = tmp_path / "summaries.sqlite3", tmp_path / "elsewhere" / "backup.sqlite3"
    copy.parent.mkdir()
    program = _documented("backup").replace("/data/summaries.sqlite3", str(source))
    program = program.replace("/data/backup.sqlite3", str(copy))
    async with _opened(f"sqlite:{source}") as store:
        await store.put_many([*BEFORE, SUMMARY])
        await _written_while(store, [sys.executable, "-c", program])
    assert copy.stat().st_mode & 0o077 == 0  # documents are in it
    async with _opened(f"sqlite:{copy}") as store:
        assert await _holds_what_was_before(store)
        await store.put_many([Entry("after", b"")])


@pytest.mark.redis
async def test_a_copy_of_redis(tmp_path: Path) -> None:
    for name in ("source", "restored"):
        (tmp_path / name).mkdir()
    backup = tmp_path / "backup.rdb"
    with running_redis(tmp_path / "source") as url:
        port = url.rpartition(":")[2].removesuffix("/0")
        async with _opened(url) as store:
            await store.put_many([*BEFORE, SUMMARY])
            await _written_while(store, ["redis-cli", "-p", port, "--rdb", str(backup)])
    restore = ["sh", str(ROOT / "deploy" / "redis" / "restore.sh"), str(backup), str(tmp_path / "restored")]
    told = subprocess.run(restore, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^restored \d+ keys$", told, re.MULTILINE)
    with running_redis(tmp_path / "restored") as url:
        async with _opened(url) as store:
            assert await _holds_what_was_before(store)
    assert os.listdir(tmp_path / "restored").count("dump.rdb") == 0


@pytest.mark.redis
def test_a_restore_replaces_nothing(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    (tmp_path / "appendonlydir").mkdir()
    restore = ["sh", str(ROOT / "deploy" / "redis" / "restore.sh"), str(tmp_path / "backup.rdb"), str(tmp_path)]
    told = subprocess.run(restore, check=False, capture_output=True, text=True)
    assert told.returncode == 1
    assert "move it away" in told.stderr
