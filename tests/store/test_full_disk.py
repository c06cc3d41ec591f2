"""A disk that is full: what makes room goes on, and what takes room does again once there is some."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.store import EmbeddedStore, Entry, StoreFull

RESERVE_BYTES = 512 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """With a file of another program."""
    with (disk / "other").open("ab", buffering=0) as other:
        try:
            while True:
                other.write(os.urandom(4096))
        except OSError:
            return


async def put_until_full(store: EmbeddedStore, *, ttl_seconds: float | None = None) -> int:
    for number in range(1000):
        document = [Entry(f"s{number}", b"x" * 50_000), Entry(f"m{number}", b"m", (f"s{number}",))]
        try:
            await store.put_many(document, ttl_seconds=ttl_seconds)
        except StoreFull:
            return number
    pytest.fail("the disk was never full")


@pytest.mark.parametrize("is_filled_by_others", [False, True])
async def test_a_full_disk_recovers_by_deletion(small_disk: Path, is_filled_by_others: bool) -> None:
    """DELETE was refused as full, so nothing ever made room again."""
    store = await EmbeddedStore.open(small_disk / "store.sqlite3", reserve_bytes=RESERVE_BYTES)
    num_stored = await put_until_full(store)
    assert num_stored > 5
    if is_filled_by_others:
        fill(small_disk)
    with pytest.raises(StoreFull):
        await store.ping()
    assert await store.get_many(["m0"]) == [b"m"]
    for number in range(num_stored):
        assert await store.delete(f"m{number}"), number
    await store.ping()
    await store.put_many([Entry("after", b"x" * 50_000)])
    assert await put_until_full(store) > 0
    await store.close()


async def test_what_expires_makes_room_by_itself(small_disk: Path) -> None:
    """A put that finds no room sweeps first; the sweep was part of the put, and undone with it."""
    store = await EmbeddedStore.open(small_disk / "store.sqlite3", reserve_bytes=RESERVE_BYTES)
    await put_until_full(store, ttl_seconds=1.0)
    fill(small_disk)
    await asyncio.sleep(1.1)
    await store.put_many([Entry("after", b"x" * 100_000)])
    await store.ping()
    assert await store.get_many(["after", "m0"]) == [b"x" * 100_000, None]
    await store.close()


async def test_readiness_comes_back_without_a_put(small_disk: Path) -> None:
    """A server that is not ready gets no request which could find that there is room again."""
    store = await EmbeddedStore.open(small_disk / "store.sqlite3", reserve_bytes=RESERVE_BYTES)
    await put_until_full(store, ttl_seconds=1.0)
    with pytest.raises(StoreFull):
        await store.ping()
    await asyncio.sleep(1.1)
    await store.ping()
    await store.close()
