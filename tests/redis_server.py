"""A real Redis server for tests."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis


@contextmanager
def running_redis(
    directory: Path,
    *,
    port: int | None = None,
    config: Path | None = None,
    arguments: Sequence[str] = (),
    program: str = "redis-server",
) -> Iterator[str]:
    """Run a server that syncs every write to `directory`, and give its URL; it may be killed meanwhile.

    Skips the test where there is no such program. `arguments` come last and win; a second server on the same
    `directory` finds what the first one wrote. One with a `config`, a Sentinel's, keeps nothing.
    """
    binary = shutil.which(program)
    if binary is None:
        pytest.skip(f"{program} is not installed")
    port = free_port() if port is None else port
    command = [binary, *([] if config is None else [str(config)])]
    command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    if config is None:
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--repl-diskless-sync-delay", "0"]  # a replica is not kept waiting for others
    command += arguments
    log = directory / "redis.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(process, port, log)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(timeout=10)


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    with closing(redis.Redis(port=port, socket_timeout=1)) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.01)
    raise RuntimeError(f"redis-server did not start: {log.read_text()[-2000:]}")
