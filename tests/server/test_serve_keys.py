"""Keys of a server in a process of its own: made by the command, read again on a signal, in no line that is logged."""

import re
import signal
import socket
import time
from pathlib import Path

import httpx
from typer.testing import CliRunner

from server.cli.main import app
from server.core.callers.keyring import PREFIX, read_keyring
from tests.server.test_crash import Server


def made(*options: str) -> tuple[str, str]:
    """A new key, and its entry."""
    done = CliRunner().invoke(app, ["keys", "new", *options])
    assert done.exit_code == 0, done.stderr
    (key,) = re.findall(rf"{PREFIX}\S{{43}}$", done.stderr, re.MULTILINE)
    assert key not in done.stdout
    return key, done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_a_key_is_printed_once_beside_an_entry_that_a_server_reads() -> None:
    key, entry = made("--name", "reader", "--tenant", "team", "--admin", "--tokens-per-minute", "500")
    found = read_keyring(entry).find(key)
    assert found is not None
    assert (found.name, found.tenant, found.admin, found.tokens_per_minute) == ("reader", "team", True, 500)
    assert made("--name", "reader")[0] != key
    for wrong in (["--name", "a reader"], ["--name", "a", "--requests-per-minute", "0"], []):
        assert CliRunner().invoke(app, ["keys", "new", *wrong]).exit_code == 2


def test_hup_has_the_keys_read_again_and_metrics_have_their_port(checkpoint: Path, tmp_path: Path) -> None:
    (first, entry), (second, other) = made("--name", "first"), made("--name", "second")
    path, log, port = tmp_path / "keys.toml", tmp_path / "server.log", free_port()
    path.write_text(entry)
    options = ("--api-keys", str(path), "--metrics-port", str(port))
    server = Server(checkpoint, f"sqlite:{tmp_path}/store.sqlite3", log, *options)
    try:

        def statuses() -> list[int]:
            keys = ({"Authorization": f"Bearer {key}"} for key in (first, second))
            return [server.client.get("/summaries", headers=headers).status_code for headers in keys]

        def hang_up(said: str) -> None:
            count = log.read_text().count(said)
            server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 10
            while log.read_text().count(said) == count:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        assert statuses() == [200, 401]
        path.write_text(f'{entry}\n[[key]]\nname = "{second}"\n')
        hang_up("stay as they were")
        assert statuses() == [200, 401]
        path.write_text(other)
        hang_up("read again")
        assert statuses() == [401, 200]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'autocompressor_admission_rejections_total{reason="key"} 3.0' in metrics
        assert server.client.get("/metrics", headers={"Authorization": f"Bearer {second}"}).status_code == 404
        assert server.stop() == 0
    finally:
        server.process.kill()
    text = log.read_text()
    assert first not in text
    assert second not in text
    assert "key=first tenant=first GET /summaries 200" in text


def test_a_port_for_metrics_that_is_taken_ends_the_start(checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--port", "0", "--model", str(checkpoint), "--store", f"sqlite:{tmp_path}/store.sqlite3"]
        done = CliRunner().invoke(app, ["serve", *options, "--metrics-port", str(port)])
    assert done.exit_code == 2
    assert f"cannot listen at 127.0.0.1 port {port}" in done.stderr
