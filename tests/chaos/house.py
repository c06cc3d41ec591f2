"""What rows stand on: servers in processes of their own, and clients in another."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from tests.chaos import documents, load
from tests.chaos.documents import GREEDY, Expected
from tests.chaos.load import Plan
from tests.chaos.outcome import Outcome, quantile
from tests.redis_server import free_port
from tests.server.test_crash import PROGRAM, Server

POSITIONS = 512
LATE_SECONDS = 90.0  # clients that do not end by then are a fault


@dataclass(frozen=True)
class House:
    """Where a row is run, and how much of it.

    `rounds` and `seconds` are the row's own, or what the command line says. `expected` is what an undisturbed server
    made of each document.
    """

    folder: Path
    checkpoint: Path
    expected: list[Expected]
    expected_file: Path
    rounds: int = 1
    seconds: float = 1.0
    seed: int = 0
    say: Callable[[str], None] = print

    def room(self, name: str) -> "House":
        """The same in an empty folder of its own."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return replace(self, folder=folder)

    def served(self, store: str, *flags: str, program: Sequence[str] = PROGRAM) -> "Served":
        return Served(self, store, flags, program)

    def plan(self, url: str, **given: Any) -> Plan:
        return Plan(url, str(self.expected_file), seed=self.seed, **given)


class Served:
    """A server that may be killed and started again, at one address; use it in a `with` block."""

    def __init__(self, house: House, store: str, flags: Sequence[str], program: Sequence[str]) -> None:
        self._house, self._store, self._program = house, store, program
        self._port = free_port()
        self._flags = ("--port", str(self._port), *flags)
        self._num_starts = 0
        self.down: list[tuple[float, float]] = []  # from when to when it was, by its own death
        self._down_since = 0.0

    def __enter__(self) -> "Served":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.server.process.poll() is None:
            self.server.stop(signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def client(self) -> httpx.Client:
        return self.server.client

    def start(self) -> None:
        self._num_starts += 1
        log = self._house.folder / f"server-{self._num_starts}.log"
        self.server = Server(self._house.checkpoint, self._store, log, *self._flags, program=self._program)
        if self._down_since:
            self.down.append((self._down_since, time.monotonic()))
            self._down_since = 0.0

    def kill(self) -> None:
        self._down_since = time.monotonic()
        self.server.stop(signal.SIGKILL)

    def logged(self, words: str) -> int:
        """How often these words are in the logs."""
        return sum(path.read_text(errors="replace").count(words) for path in self._house.folder.glob("server-*.log"))

    def gauge(self, name: str) -> float:
        """A metric without labels, `autocompressor_` before its name."""
        text = self.client.get("/metrics").text
        found = re.search(rf"^autocompressor_{name} (\S+)$", text, re.MULTILINE)
        assert found, f"there is no metric {name}"
        return float(found[1])

    def size(self) -> tuple[int, int, int]:
        """Resident bytes, descriptors and threads, as Linux tells them."""
        place = Path(f"/proc/{self.server.process.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return (
            1024 * int(status["VmRSS"].split()[0]),
            len(list((place / "fd").iterdir())),
            int(status["Threads"]),
        )

    def wait_until_idle(self, *, seconds: float = 30) -> dict[str, float]:
        """What is still held when nothing runs any more, or when this time is over."""
        deadline = time.monotonic() + seconds
        while True:
            names = ("sequences_running", "requests_waiting", "kv_rows_used_ratio", "body_bytes")
            held = {name: value for name in names if (value := self.gauge(name))}
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.05)


@dataclass(frozen=True)
class Record:
    """What clients saw."""

    stored: list[int]
    statuses: dict[str, int]
    counts: dict[str, int]
    faults: list[str]
    unanswered: list[dict[str, Any]]
    seconds: dict[str, list[float]]

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def refused(self, *statuses: int) -> int:
        return sum(n for name, n in self.statuses.items() if int(name.split()[1]) in statuses)

    @property
    def all_seconds(self) -> list[float]:
        return [each for some in self.seconds.values() for each in some]


class Load:
    """Clients in a process of their own; they work while the body runs, and `record` is there after it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.progress: dict[str, int] = {"answered": 0, "unanswered": 0}

    def __enter__(self) -> "Load":
        command = [sys.executable, "-m", "tests.chaos.load", load.as_argument(self._plan)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "record" in told:
                self._lines.append(line)
            else:
                self.progress = told

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LATE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if not self._lines:
            raise RuntimeError("the clients broke down")
        self.record = Record(**json.loads(self._lines[0])["record"])

    def wait_for(self, num_answers: int, *, seconds: float = 60) -> None:
        """Until so many more calls are answered."""
        deadline, wanted = time.monotonic() + seconds, self.progress["answered"] + num_answers
        while self.progress["answered"] < wanted and self._process.poll() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {num_answers} calls were answered in {seconds} s")
            time.sleep(0.05)


def fill(house: House, served: Served, num_documents: int | None = None) -> None:
    """Have all documents, or the first of them, stored."""
    for number in range(len(house.expected) if num_documents is None else num_documents):
        served.client.post("/compress", json=documents.body_of(number)).raise_for_status()


def judge_load(record: Record, outcome: Outcome, *, down: Sequence[tuple[float, float]] = ()) -> None:
    """Faults that clients saw; a call without an answer is one unless the server itself was down meanwhile."""
    outcome.add("answers", record.answered)
    outcome.faults += record.faults
    if record.counts.get("faults", 0) > len(record.faults):
        outcome.faults.append(f"and {record.counts['faults'] - len(record.faults)} more of these")
    lone = [one for one in record.unanswered if not any(a <= one["ended"] and one["started"] <= b for a, b in down)]
    if down:
        outcome.add("cut off or refused while it was down", len(record.unanswered) - len(lone))
    outcome.add("without an answer", len(lone))
    outcome.faults += [f"{one['kind']} got no answer: {one['error']}" for one in lone[:5]]
    outcome.add("wrong", record.counts.get("wrong", 0))


def judge_kept(house: House, served: Served, record: Record, outcome: Outcome, *, can_lose: bool = False) -> None:
    """Read each document that was acknowledged, and compare."""
    lost = wrong = 0
    for number in record.stored:
        one = house.expected[number]
        exported = served.client.get(f"/summaries/{one.id}", params={"format": "safetensors"})
        answer = served.client.post("/generate", json={"summary_ids": [one.id], **GREEDY})
        if not (exported.is_success and answer.is_success):
            lost += 1
            if not can_lose:
                outcome.faults.append(f"document {number} is lost: {exported.status_code}, {answer.status_code}")
        elif not one.is_like(exported.content) or answer.json()["text"] != one.answer:
            wrong += 1
            outcome.faults.append(f"document {number} is wrong")
    outcome.add("summaries read at the end", len(record.stored))
    outcome.add("lost", lost)
    outcome.add("wrong", wrong)


def judge_log(served: Served, outcome: Outcome, *, injected: int = 0) -> None:
    """No traceback in the server's logs beyond those of injected errors."""
    found = served.logged("Traceback (most recent call last)")
    outcome.require(found <= injected, f"{found} tracebacks in the log, {injected} of them injected")


def seconds_until_good(served: Served, expected: Expected, *, most: float = 60) -> float:
    """How long until a question on a stored document is answered rightly; RuntimeError after `most`."""
    started = time.monotonic()
    with httpx.Client(base_url=served.url, timeout=10) as client:
        while time.monotonic() - started < most:
            try:
                answer = client.post("/generate", json={"summary_ids": [expected.id], **GREEDY})
                if answer.is_success and answer.json()["text"] == expected.answer:
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"no good answer within {most} s")


def seconds_until_written(served: Served, number: int, *, most: float = 60) -> float:
    """How long until a document that is not stored can be; RuntimeError after `most`."""
    started = time.monotonic()
    with httpx.Client(base_url=served.url, timeout=10) as client:
        while time.monotonic() - started < most:
            try:
                # not of the documents that clients know of
                if client.post("/compress", json={"text": f"written {number} {started}"}).is_success:
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"nothing could be stored within {most} s")


def tell_seconds(outcome: Outcome, name: str, values: Sequence[float], *, most: float) -> None:
    """Median and worst of how long something took, the worst within `most`."""
    outcome.counts[f"{name}, median s"] = quantile(values, 0.5)
    outcome.counts[f"{name}, worst s"] = max(values, default=0.0)
    outcome.require(max(values, default=0.0) <= most, f"{name} took {max(values, default=0.0):.1f} s, over {most:g}")


@contextmanager
def reference(folder: Path, checkpoint: Path, num_documents: int, say: Callable[[str], None]) -> Iterator[House]:
    """A house whose documents were made by a server that does nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(checkpoint, f"sqlite:{folder}/alone.sqlite3", folder / "alone.log")
    try:
        expected = documents.made_alone(server.client, num_documents, say)
    finally:
        server.stop(signal.SIGKILL)
    documents.save(expected, folder / "expected.json")
    yield House(folder, checkpoint, expected, folder / "expected.json", say=say)
