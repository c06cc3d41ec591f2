"""A server in a process of its own: killed, restarted, left by its clients."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.redis_server import running_redis

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6


PROGRAM = (str(Path(sys.executable).parent / "autocompressor"),)


class Server:
    """`autocompressor serve` on a free port, ready when made; `flags` are more of its settings, and win."""

    def __init__(self, checkpoint: Path, store: str, log: Path, *flags: str, program: Sequence[str] = PROGRAM) -> None:
        command = [*program, "serve", "--port", "0", "--store", store]
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "--model", str(checkpoint), "--dtype", "float32", "--shutdown-seconds", "1", *flags],
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.client = httpx.Client(base_url=self._address(), timeout=30)

    def _address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            text = self._log.read_text()
            if found := re.search(r"ready in .* at (http://127\.0\.0\.1:\d+)", text):
                return found[1]
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self._log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.client.close()
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def running(checkpoint: Path, store: str, tmp_path: Path, *flags: str) -> Iterator[Server]:
    server = Server(checkpoint, store, tmp_path / "server.log", *flags)
    try:
        yield server
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/store.sqlite3"
    else:
        with running_redis(tmp_path) as url:
            yield url


def test_kill_9_loses_no_acknowledged_summary_and_no_job(checkpoint: Path, store: str, tmp_path: Path) -> None:
    ids = []
    job, headers = {"documents": [{"text": f"{index}. {DOCUMENT}"} for index in range(200)]}, {"Idempotency-Key": "one"}
    for number in range(2):
        with running(checkpoint, store, tmp_path) as server:
            for index in range(3):
                text = f"{number} {index} {DOCUMENT}"
                ids.append(server.client.post("/compress", json={"text": text}).raise_for_status().json()["id"])
            started = server.client.post("/jobs/compress", json=job, headers=headers).raise_for_status().json()
            server.stop(signal.SIGKILL)
            assert started["status"] in ("queued", "running")
    with running(checkpoint, store, tmp_path) as server:
        for summary_id in ids:
            request = {"summary_ids": [summary_id], "prompt": " On", "max_tokens": 2}
            server.client.post("/generate", json=request).raise_for_status()
        assert server.client.post("/jobs/compress", json=job, headers=headers).json()["id"] == started["id"]
        done = ended_job(server, started["id"])
        assert len(done["result"]["data"]) == 200
        assert server.stop() == 0


def ended_job(server: Server, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30  # a lease and a look for jobs, and the work
    while time.monotonic() < deadline:
        told: dict[str, Any] = server.client.get(f"/jobs/{job_id}").raise_for_status().json()
        if told["status"] not in ("queued", "running"):
            return told
        time.sleep(0.05)
    raise AssertionError(f"the job has not ended: {told}")


def test_a_client_that_leaves_frees_its_row(checkpoint: Path, tmp_path: Path) -> None:
    with running(checkpoint, f"sqlite:{tmp_path}/store.sqlite3", tmp_path) as server:
        request = {"prompt": "On", "max_tokens": 450, "temperature": 0}
        with server.client.stream("POST", "/generate", json={**request, "stream": True}) as response:
            next(response.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/generate", json=request, timeout=0.05)
        metrics = metrics_when_idle(server)
        assert "autocompressor_generations_finished_total{" not in metrics, "it went on to the end"
        server.client.post("/generate", json={**request, "max_tokens": 2}).raise_for_status()


def metrics_when_idle(server: Server) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = server.client.get("/metrics").text
        if "autocompressor_sequences_running 0.0" in text and "autocompressor_requests_waiting 0.0" in text:
            return text
        time.sleep(0.02)
    raise AssertionError("a row stays in use")


def test_sigterm_finishes_a_turn_of_a_websocket(checkpoint: Path, tmp_path: Path) -> None:
    """It was cut off in the middle; one that is idle is closed at once."""
    with running(checkpoint, f"sqlite:{tmp_path}/store.sqlite3", tmp_path) as server:
        url = str(server.client.base_url).replace("http", "ws")
        asked = {"type": "response.create", "model": checkpoint.name, "input": "On", "max_output_tokens": 50}
        with connect(f"{url}/v1/responses") as socket, connect(f"{url}/v1/responses") as idle:
            socket.send(json.dumps({**asked, "ignore_eos": True}))
            while json.loads(socket.recv())["type"] != "response.output_text.delta":
                pass
            server.process.send_signal(signal.SIGTERM)
            events = []
            with suppress(ConnectionClosed):
                while True:
                    events.append(json.loads(socket.recv())["type"])
            assert events[-1] in ("response.completed", "response.incomplete")
            assert socket.close_code == 1012
            with pytest.raises(ConnectionClosed):
                idle.recv(timeout=10)
        assert server.process.wait(timeout=30) == 0


def test_sigterm_finishes_what_runs(checkpoint: Path, tmp_path: Path) -> None:
    with running(checkpoint, f"sqlite:{tmp_path}/store.sqlite3", tmp_path) as server:
        request = {"prompt": "On", "max_tokens": 50, "temperature": 0, "stream": True}
        with server.client.stream("POST", "/generate", json=request) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert "data: [DONE]" in list(lines)
        assert server.process.wait(timeout=30) == 0
