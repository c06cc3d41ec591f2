"""A real Prometheus for tests, and promtool."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.redis_server import free_port


def binary(name: str) -> str:
    """A program of Debian's package `prometheus`; a machine without it skips, continuous integration may not."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"continuous integration installs prometheus, and {name} is not there"
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=f"{url}/api/v1", timeout=10)

    def ask(self, path: str, **params: Any) -> Any:
        """What its API answers (prometheus.io/docs/prometheus/latest/querying/api)."""
        return self.client.get(path, params=params).raise_for_status().json()["data"]

    def value(self, query: str) -> float | None:
        """Of the one series that a query gives; None for none."""
        found = self.ask("/query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        return {one["labels"]["alertname"] for one in self.ask("/alerts")["alerts"] if one["state"] == "firing"}


@contextmanager
def running_prometheus(
    directory: Path, *, targets: Sequence[str], rules: Mapping[str, Any], interval: str = "500ms"
) -> Iterator[Prometheus]:
    """Scrape `targets` as the job `autocompressor`, and evaluate `rules`, every `interval`."""
    (directory / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
    jobs = [{"job_name": "autocompressor", "static_configs": [{"targets": list(targets)}]}]
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yml"],
        "scrape_configs": jobs,
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, log = free_port(), directory / "prometheus.log"
    command = [binary("prometheus"), f"--config.file={directory}/prometheus.yml", "--log.level=warn"]
    command += [f"--storage.tsdb.path={directory}/prometheus", f"--web.listen-address=127.0.0.1:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait_until_it_scrapes(prometheus, process, log)
        yield prometheus
    finally:
        prometheus.client.close()
        process.terminate()
        process.wait(timeout=20)


def _wait_until_it_scrapes(prometheus: Prometheus, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if prometheus.value("min(up)") == 1:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"prometheus did not start, or its targets do not answer: {log.read_text()[-2000:]}")
