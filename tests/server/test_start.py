"""A server that is still starting: it answers before its model is there, and a signal ends it at once."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.test_crash import PROGRAM

SOON = 5.0  # seconds; that it would take to load is more


@pytest.fixture
def starting(checkpoint: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process that listens and has no model yet, and its address."""
    log = tmp_path / "server.log"
    command = [*PROGRAM, "serve", "--port", "0", "--store", f"sqlite:{tmp_path}/a.sqlite3", "--model", str(checkpoint)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors)
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"loading; .* at (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def test_it_answers_before_the_model_is_there(starting: tuple[subprocess.Popen[bytes], str]) -> None:
    """It listened only once all was loaded: a probe could not tell a start from a process that is gone."""
    _, address = starting
    with httpx.Client(base_url=address, timeout=SOON) as client:
        assert client.get("/livez").status_code == 200
        assert "summary vectors" in client.get("/").text
        assert client.get("/readyz").json()["checks"] == {"engine": "loading"}
        assert client.get("/info").status_code == 503
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.get("/info").status_code == 200  # over the same connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_at_once(starting: tuple[subprocess.Popen[bytes], str], number: signal.Signals) -> None:
    process, _ = starting
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert time.monotonic() - started < SOON
