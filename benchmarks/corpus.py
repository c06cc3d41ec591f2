"""A corpus from texts to answers, with an actor killed on the way: compressed, indexed, served, searched and asked.

    python -m benchmarks.corpus --passages 20000 --corpus FOLDER

FOLDER has `DOMAIN.SPLIT.jsonl.zst`; without one the passages are shuffled sentences of the bundled chapter. Needs the
extras `bulk` and `search`; Linux. Looks whether every passage is in the index once, and asks for known passages by
words of theirs. Ends with status 1 where a passage was lost or doubled, no actor was killed, or BM25 finds fewer than 9
of 10 by their rarest words. `--keep` has passages and index stay, for `python -m benchmarks.quantised`.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from autocompressor import Client, Hit
from benchmarks.passages import KINDS, Question, cut, questions
from server.core.corpora.corpus import Corpus
from tests.server.test_crash import Server

PASSAGES, INDEX = "passages.jsonl", "index"
BLOCK_ROWS = 256
TOGETHER = 1000  # passages that are read at a time
WAYS = {"bm25": False, "nearest": False, "both": False, "bm25, reranked": True, "both, reranked": True}
SHOWN = 10  # hits, for the reciprocal rank
LEAST_FOUND = 0.9


@dataclass
class Found:
    """Of questions asked one way: each one's rank of its passage, None beyond the tenth, and its seconds."""

    ranks: list[int | None]
    seconds: list[float]

    def __str__(self) -> str:
        return f"{self.share(1):.3f} | {self.share(5):.3f} | {self.reciprocal:.3f} | {self.times}"

    def share(self, most: int) -> float:
        return sum(rank is not None and rank <= most for rank in self.ranks) / len(self.ranks)

    @property
    def reciprocal(self) -> float:
        return statistics.fmean(0 if rank is None else 1 / rank for rank in self.ranks)

    @property
    def times(self) -> str:
        ordered = sorted(self.seconds)
        return f"{1e3 * statistics.median(ordered):.0f}, {1e3 * ordered[int(0.95 * (len(ordered) - 1))]:.0f}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "autocompressor", *arguments]


def compress(source: Path, output: Path, model: str, num_parts: int) -> tuple[float, int]:
    """Run bulk compression and kill one of its actors once a quarter of the parts is there; seconds, and how many."""
    flags = ["--model", model, "--keep-text", "--actors", "2", "--block-rows", str(BLOCK_ROWS)]
    started, killed = time.perf_counter(), 0
    with subprocess.Popen(command("bulk", "--input", str(source), "--output", str(output), *flags)) as driver:
        while driver.poll() is None:
            time.sleep(0.2)
            if not killed and 4 * len(list(output.glob("*.parquet"))) >= num_parts:
                killed = int(kill_an_actor(driver.pid))
    if driver.returncode:
        raise SystemExit(f"bulk compression ended with status {driver.returncode}")
    return time.perf_counter() - started, killed


def kill_an_actor(driver: int) -> bool:
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                print(f"killed actor {process.pid}", flush=True)
                return True
        except psutil.Error:
            continue
    return False


def index(output: Path, folder: Path) -> tuple[float, int]:
    """Seconds, and resident bytes at most."""
    started = time.perf_counter()
    process = subprocess.Popen(command("index", "--input", str(output), "--output", str(folder), "--nearest"))
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the index ended with status {status}")
    return time.perf_counter() - started, used.ru_maxrss * 1024


def faults_of(folder: Path, number: int) -> list[str]:
    """What is wrong with the passages in an index."""
    corpus = Corpus.open("corpus", folder)
    counts: Counter[str] = Counter()
    for start in range(0, corpus.manifest.num_passages, TOGETHER):
        places = range(start, min(start + TOGETHER, corpus.manifest.num_passages))
        counts.update(each.source_id for each in corpus.read(places))
    lost, doubled = set(map(str, range(number))) - counts.keys(), [key for key, count in counts.items() if count > 1]
    return [f"{len(lost)} passages lost"] * bool(lost) + [f"{len(doubled)} passages doubled"] * bool(doubled)


def asked(client: Client, way: str, known: Sequence[Question]) -> Found:
    found = Found([], [])
    by = way.partition(",")[0]
    for question in known:
        since = time.perf_counter()
        hits = client.search("corpus", question.text, by=by, limit=SHOWN, rerank=WAYS[way]).hits  # type: ignore[arg-type]
        found.seconds.append(time.perf_counter() - since)
        found.ranks.append(rank_of(question, hits))
    return found


def rank_of(question: Question, hits: Sequence[Hit]) -> int | None:
    ranks = (rank for rank, hit in enumerate(hits, start=1) if hit.source_id == str(question.passage))
    return next(ranks, None)


def search(folder: Path, model: str, known: Sequence[Question], scratch: Path) -> list[str]:
    """Serve the index and ask for what is known; what is wrong with the answers."""
    flags = ("--dtype", "auto", "--corpora", f"corpus={folder}")
    started = time.perf_counter()
    server = Server(Path(model), f"sqlite:{scratch}/store.sqlite3", scratch / "server.log", *flags)
    address = str(server.client.base_url)
    faults = []
    try:
        print(f"server ready after {time.perf_counter() - started:.1f} s", flush=True)
        print(
            "\n| questions | found by | recall@1 | recall@5 | MRR@10 | ms, median and 95% |\n|---|---|---|---|---|---|"
        )
        with Client(address) as client:
            for kind in KINDS:
                own = [each for each in known if each.kind == kind]
                for way in WAYS:
                    found = asked(client, way, own)
                    print(f"| {kind} | {way} | {found} |", flush=True)
                    if (kind, way) == (KINDS[0], "bm25") and found.share(5) < LEAST_FOUND:
                        faults.append(f"BM25 finds {found.share(5):.3f} of known passages by their rarest words")
        print(flush=True)
        told = subprocess.run(
            command(
                "ask", "corpus", known[1].text, "--expand", "1", "--max-tokens", "24", "--seed", "1", "--url", address
            ),
            check=False,
        )
        faults += ["`autocompressor ask` failed"] * bool(told.returncode)
    finally:
        server.stop()
    return faults


def measure(asked_for: argparse.Namespace, scratch: Path) -> list[str]:
    texts = cut(asked_for.corpus, asked_for.passages, asked_for.words)
    source, output, folder = scratch / PASSAGES, scratch / "vectors", scratch / INDEX
    with source.open("w") as file:
        for place, text in enumerate(texts):
            file.write(json.dumps({"id": place, "text": text}) + "\n")
    seconds, killed = compress(source, output, asked_for.model, -(-len(texts) // BLOCK_ROWS))
    print(f"compressed {len(texts)} passages in {seconds:.0f} s, {len(texts) / seconds:.1f} a second", flush=True)
    seconds, peak = index(output, folder)
    print(f"indexed in {seconds:.1f} s, resident {peak / 1e6:.0f} MB at most", flush=True)
    sizes = Corpus.open("corpus", folder).manifest.sizes
    for name in dict.fromkeys(path.partition("/")[0] for path in sizes):
        held = sum(size for path, size in sizes.items() if path.partition("/")[0] == name)
        print(f"  {name}: {held / len(texts):.0f} bytes a passage")
    faults = [] if killed else ["no actor was killed"]
    faults += faults_of(folder, len(texts))
    return faults + search(folder, asked_for.model, questions(texts, asked_for.questions), scratch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--model", default="paper")
    parser.add_argument("--words", type=int, default=60, help="of a passage")
    parser.add_argument("--questions", type=int, default=100, help="passages that are asked for, each two ways")
    parser.add_argument("--corpus", type=Path, help="a folder of DOMAIN.SPLIT.jsonl.zst")
    parser.add_argument("--keep", type=Path, help="a folder, not there yet, for the passages and the index")
    given = parser.parse_args()
    if given.keep is not None and given.keep.exists():  # told before hours of work, not after them
        parser.error(f"--keep {given.keep} is there already")
    os.environ["OMP_NUM_THREADS"] = "1"  # of each actor: they share the machine's cores
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        faults = measure(given, scratch)
        if given.keep is not None:
            given.keep.mkdir(parents=True)
            for name in (PASSAGES, INDEX):
                shutil.move(scratch / name, given.keep / name)
    print("\n".join(faults) or f"all {given.passages} passages are there once")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
