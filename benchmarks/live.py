"""A server in a process of its own, and clients that cost little: what they take is not the server's."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

START_SECONDS = 60.0
LAST_LINES = 10  # of its log, shown where it does not start


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class LiveServer:
    """`autocompressor serve` on a free port, ready when made.

    Attributes:
        seconds_to_page: from the command until `/livez` and the page are answered.
        seconds_to_ready: from the command to readiness. cpu_seconds_to_ready: what the process had taken of all cores.
    """

    def __init__(self, folder: Path, *flags: str, store: str | None = None, port: int | None = None) -> None:
        """`store`: a URL, or a name in the folder, for servers that go on from one another; None is one of its own."""
        self.port = free_port() if port is None else port
        url = store if store is not None and ":" in store else f"sqlite:{folder / f'{store or self.port}.sqlite3'}"
        program = Path(sys.executable).with_name("autocompressor")
        command = [program, "serve", "--port", str(self.port), "--store", url, *flags]
        self._log = (folder / f"{self.port}.log").open("a")
        started = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._wait_for(("/livez", "/"), started + START_SECONDS)
        self.seconds_to_page = time.perf_counter() - started
        self._wait_for(("/readyz",), started + START_SECONDS)
        self.seconds_to_ready = time.perf_counter() - started
        self.cpu_seconds_to_ready = self.cpu_seconds()

    def _wait_for(self, paths: Sequence[str], deadline: float) -> None:
        """Until all of them are answered with 200."""
        left = list(paths)
        while time.perf_counter() < deadline and self._process.poll() is None:
            if not left:
                return
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{left[0]}", timeout=1):
                    del left[0]
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)  # each answer takes the server's time
        self._process.kill()
        self._process.wait()
        self._log.close()
        told = Path(self._log.name).read_text().splitlines()[-LAST_LINES:]
        raise RuntimeError("the server did not become ready; its last words:\n" + "\n".join(told))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.go_on()
            self.end(signal.SIGTERM)

    def end(self, number: signal.Signals, seconds: float = 60.0) -> int:
        """Have the process end by a signal, and wait: its exit status."""
        self._process.send_signal(number)
        status = self._process.wait(seconds)
        self._log.close()
        return status

    def resident_bytes(self) -> int:
        """VmRSS, as Linux tells it."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """The most that was resident since `forget_peak`, or since the process began (VmHWM)."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Begin the peak anew (proc(5), clear_refs)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
        return 1024 * int(line.split()[1])

    def cpu_seconds(self) -> float:
        """What the process has taken of all cores (proc(5), stat: utime and stime)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stand_still(self) -> None:
        """While others are measured."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)


class Connection:
    """One kept-open HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def close(self) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of a 2xx answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        headers = await self._reader.readuntil(b"\r\n\r\n")
        status = int(headers.split(b" ", 2)[1])
        length = next(
            int(line.partition(b":")[2])
            for line in headers.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        answer = await self._reader.readexactly(length)
        if status >= 300:
            raise RuntimeError(f"{path} answered {status}: {answer.decode()}")
        return answer

    async def post_json(self, path: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.post(path, json.dumps(body).encode()))
        return answer
