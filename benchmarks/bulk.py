"""What bulk compression makes a second by one actor and by two, and whether its memory stays flat.

    python -m benchmarks.bulk actors            # `paper`, passages of 40 words
    python -m benchmarks.bulk memory            # a tiny model, 100,000 passages of ten words

Needs the extra `bulk`; Linux. What Ray and the models take to start does not count: time runs from the second part on.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.tiny import tiny_anchored

WORDS = ("the", "keeper", "wrote", "one", "line", "a", "day", "wind", "from", "north", "eleven", "ships", "no", "fog")
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Look:
    """At a run: seconds since its start, parts that are there, resident bytes of the largest actor and the driver."""

    seconds: float
    num_parts: int
    actor_bytes: int
    driver_bytes: int


def write_passages(path: Path, number: int, num_words: int) -> Path:
    draw = random.Random(0)
    with path.open("w") as file:
        for place in range(number):
            text = f"{place}: " + " ".join(draw.choices(WORDS, k=num_words))
            file.write(json.dumps({"id": place, "text": text}) + "\n")
    return path


def run(source: Path, output: Path, *flags: str) -> Iterator[Look]:
    """Look at a run until it ends; RuntimeError where it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "autocompressor", "bulk", "--input", str(source), "--output", str(output), *flags]
    log = output.with_suffix(".log")
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            actors = [each for each in driver.children(recursive=True) if "MapWorker" in " ".join(_command(each))]
            parts = len(list(output.glob("*.parquet")))
            largest = max((_resident(each) for each in actors), default=0)
            yield Look(time.perf_counter() - started, parts, largest, _resident(driver))
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {log.read_text()[-500:]}")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def actors(folder: Path, number: int) -> None:
    rows, rates = 32, {}
    source = write_passages(folder / "passages.jsonl", number, 40)
    for count in (1, 2):
        output = folder / f"by-{count}"
        for _ in run(source, output, "--model", "paper", "--actors", str(count), "--block-rows", str(rows)):
            pass
        times = sorted(part.stat().st_mtime for part in output.glob("*.parquet"))
        rates[count] = (len(times) - 1) * rows / (times[-1] - times[0])
        print(f"{count} actors: {rates[count]:.1f} documents a second", flush=True)
    print(f"two over one: {rates[2] / rates[1]:.2f}")


def memory(folder: Path, number: int) -> None:
    rows, told = 500, 0
    tiny = tiny_anchored()
    tiny.save_pretrained(folder / "tiny")
    source = write_passages(folder / "passages.jsonl", number, 10)
    flags = ("--model", str(folder / "tiny"), "--actors", "2", "--block-rows", str(rows), "--together", "16")
    for look in run(source, folder / "made", *flags):
        done = look.num_parts * rows
        if done >= told:
            told += max(rows, number // 20)
            sizes = f"an actor {look.actor_bytes / 1e6:.0f} MB, the driver {look.driver_bytes / 1e6:.0f}"
            print(f"{done} passages after {look.seconds:.0f} s: {sizes}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("actors", "memory"))
    parser.add_argument("--passages", type=int, help="how many; 2,048, and 100,000 for memory")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of each actor: they share the machine's cores
    with tempfile.TemporaryDirectory() as folder:
        if asked.what == "actors":
            actors(Path(folder), asked.passages or 2048)
        else:
            memory(Path(folder), asked.passages or 100_000)


if __name__ == "__main__":
    main()
