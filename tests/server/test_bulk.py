"""`autocompressor bulk` on a Ray of its own: actors and drivers that are killed, one actor and two."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tiny import TEXT

pytest.importorskip("ray", reason="the extra bulk is not installed")
pytestmark = pytest.mark.slow

NUM_DOCUMENTS, BLOCK_ROWS = 480, 16
SECONDS = 100


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but each hundredth line a document."""
    path = tmp_path_factory.mktemp("bulk") / "passages.jsonl"
    with path.open("w") as file:
        for index in range(NUM_DOCUMENTS):
            document = json.dumps({"id": index, "text": f"{index}: {TEXT[:200]}"})
            file.write("{\n" if index % 100 == 99 else f"{document}\n")
    return path


def started(checkpoint: Path, source: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = ["bulk", "--input", str(source), "--output", str(output), "--model", str(checkpoint)]
    return subprocess.Popen(
        [sys.executable, "-m", "autocompressor", *command, "--block-rows", str(BLOCK_ROWS), *more],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"AUTOCOMPRESSOR_DTYPE": "float32"},
    )


def ended(driver: subprocess.Popen[str]) -> tuple[int, int, int]:
    """How many were compressed, there already and rejected, as it says."""
    _, told = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 4, told  # some were rejected
    found = re.search(r"(\d+) compressed, (\d+) there already, (\d+) rejected", told)
    assert found, told
    new, there, rejected = map(int, found.groups())
    return new, there, rejected


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def actors_of(driver: subprocess.Popen[str]) -> Iterator[int]:
    """Processes that Ray has for our actors, below the driver's."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue
    for process, name in names.items():
        above = process
        while above and above != driver.pid:
            above = parents.get(above, 0)
        if above and b"ray::" in name and b"Actor" in name:
            yield process


def test_one_actor_or_two_and_whoever_is_killed_the_same_files(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    num_bad = NUM_DOCUMENTS // 100
    assert ended(started(checkpoint, source, whole, "--actors", "1")) == (NUM_DOCUMENTS - num_bad, 0, num_bad)

    driver = started(checkpoint, source, broken, "--actors", "2")
    wait_for(lambda: len(list(broken.glob("*.parquet"))) >= 5)
    (first, *_) = actors_of(driver)
    os.kill(first, signal.SIGKILL)
    at_kill = len(list(broken.glob("*.parquet")))
    wait_for(lambda: len(list(broken.glob("*.parquet"))) >= at_kill + 4)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not list(actors_of(driver)))
    written = {path: path.stat().st_mtime_ns for path in broken.glob("*.parquet")}
    num_written = sum(pq.read_metadata(path).num_rows for path in written)
    assert num_written < NUM_DOCUMENTS - num_bad  # it was killed on the way

    new, there, rejected = ended(started(checkpoint, source, broken, "--actors", "2"))
    assert (new + there, rejected) == (NUM_DOCUMENTS - num_bad, num_bad)
    assert there >= num_written
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert contents(broken) == contents(whole)
    rows = [json.loads(line)["row"] for line in (broken / "rejected.jsonl").read_text().splitlines()]
    assert rows == [100, 200, 300, 400]
