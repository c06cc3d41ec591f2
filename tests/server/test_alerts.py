"""Alert rules and dashboard: what promtool says of them, and a real Prometheus that scrapes a real server.

Every alert is made to fire by its fault. Waits and windows are cut short in a copy of the rules, and the memory limit
is the server's own size at the start and 40 MB; all other thresholds are as they are shipped.
"""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.prometheus_server import Prometheus, binary, running_prometheus
from tests.redis_server import running_redis
from tests.server.test_crash import Server

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = RULES.with_name("alerts_test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "autocompressor.json"
DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6
NAME = re.compile(r"(?<![\w\"/])(?:autocompressor|process|python)_\w+")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Of the dashboard's panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


@pytest.mark.parametrize(
    "arguments",
    [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", CASES.name]],
)
def test_promtool_agrees(arguments: list[str]) -> None:
    done = subprocess.run(
        [binary("promtool"), *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_a_fault_and_a_word_of_what_to_do() -> None:
    names = {rule["alert"] for rule in rules()}
    tried = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in tried if case["exp_alerts"]} == names
    assert {name for fault in FAULTS for name in fault.alerts} == names
    assert names == set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "watching.md").read_text(), re.MULTILINE))


def test_the_dashboard_is_one_that_grafana_is_given() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "autocompressor.yml").read_text())["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) > 30
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used - {"__all", "__rate_interval"} == variables
    places = [tuple(panel["gridPos"][side] for side in ("x", "y")) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


class House:
    """A server, its Redis, and a Prometheus that watches it."""

    def __init__(self, server: Server, store: "redis.Redis", directory: Path) -> None:
        self.server, self.store = server, store
        self.client = server.client
        told = self.client.get("/metrics").text
        self.directory = directory
        self.metrics = {
            sample.name: sample.value for family in text_string_to_metric_families(told) for sample in family.samples
        }

    @property
    def target(self) -> str:
        return f"{self.client.base_url.host}:{self.client.base_url.port}"

    def short_rules(self) -> dict[str, Any]:
        """Windows of 8 seconds, no waits, and a limit of memory that can be reached."""
        most = self.metrics["process_resident_memory_bytes"] + 40e6
        share = most / self.metrics["autocompressor_memory_limit_bytes"]
        short = []
        for rule in rules():
            expression = re.sub(r"\[\d+m\]", "[8s]", rule["expr"])
            if rule["alert"] == "MemoryNearLimit":
                assert expression.endswith("> 0.9")
                expression = expression.replace("> 0.9", f"> {share}")
            short.append({"alert": rule["alert"], "expr": expression, "labels": rule["labels"]})
        return {"groups": [{"name": "short", "rules": short}]}

    def compress(self, text: str) -> httpx.Response:
        return self.client.post("/compress", json={"text": text})

    def segments(self) -> list[bytes]:
        """Where Redis has vectors of segments."""
        return [key for key in self.store.scan_iter("*segment:*") if self.store.type(key) == b"string"]


@contextmanager
def meanwhile(call: Callable[[], object], *, threads: int = 1, pause: float = 0.1) -> Iterator[None]:
    """Make a call again and again, in so many threads, while the body runs."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            with suppress(httpx.HTTPError):
                call()
            is_over.wait(pause)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(go_on)
        try:
            yield
        finally:
            is_over.set()


@contextmanager
def large_bodies(house: House) -> Iterator[None]:
    """Five bodies of 16 MB, of which the last byte does not come."""
    is_over = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(15):
            yield b"a" * 2**20
        is_over.wait(60)
        yield b"\xff"

    def send() -> None:
        with suppress(httpx.HTTPError), httpx.Client(base_url=house.client.base_url, timeout=60) as client:
            client.post("/compress", content=slowly(), headers={"content-type": "application/json"})

    with ThreadPoolExecutor(5) as pool:
        for _ in range(5):
            pool.submit(send)
        try:
            yield
        finally:
            is_over.set()


@contextmanager
def overload(house: House) -> Iterator[None]:
    """More generations than there are rows and places, each as long as it can be."""
    body = {"prompt": "On", "max_tokens": 450, "temperature": 0, "ignore_eos": True}
    with (
        httpx.Client(base_url=house.client.base_url, timeout=120, limits=httpx.Limits(max_connections=64)) as client,
        meanwhile(lambda: client.post("/generate", json=body), threads=40),
    ):
        try:
            yield
        finally:
            client.close()  # whoever waits is not waited for


@contextmanager
def damage(house: House) -> Iterator[None]:
    """Bits of a document's segments flip, and it is sent again with more."""
    house.compress(DOCUMENT).raise_for_status()
    for key in house.segments():
        house.store.set(key, b"junk", keepttl=True)
    assert house.compress(f"{DOCUMENT} And more.").status_code == 201
    yield


@contextmanager
def eviction(house: House) -> Iterator[None]:
    """Segments go, as a Redis does that may evict, and their document is sent again."""
    other = DOCUMENT.replace("keeper", "inspector")
    house.compress(other).raise_for_status()
    house.store.delete(*house.segments())
    assert house.compress(other).status_code == 201
    yield


@contextmanager
def full_store(house: House) -> Iterator[None]:
    """Redis is at its limit, and documents come."""
    house.store.config_set("maxmemory", "1mb")
    numbers = iter(range(10**6))
    with meanwhile(lambda: house.compress(f"{next(numbers)} {DOCUMENT}")):
        yield
    house.store.config_set("maxmemory", "0")


@contextmanager
def store_gone(house: House) -> Iterator[None]:
    """Redis ends, and lists are asked for."""
    with suppress(redis.ConnectionError):
        house.store.shutdown(nosave=True)
    with meanwhile(lambda: house.client.get("/summaries")):
        yield


@contextmanager
def killed(house: House) -> Iterator[None]:
    house.server.process.send_signal(signal.SIGKILL)
    yield


@dataclass(frozen=True)
class Fault:
    cause: Callable[[House], Any]
    alerts: set[str]


FAULTS = [
    Fault(large_bodies, {"MemoryNearLimit"}),
    Fault(overload, {"RequestsRejected", "KvPoolSaturated", "LongQueue", "SlowFirstToken"}),
    Fault(damage, {"DamagedRecords"}),
    Fault(eviction, {"SummariesEvicted"}),
    Fault(full_store, {"StoreFull", "ServerErrors"}),
    Fault(store_gone, {"StoreErrors"}),
    Fault(killed, {"ServerDown"}),
]


@pytest.mark.slow
@pytest.mark.redis
def test_each_alert_fires_by_its_fault_and_every_metric_that_is_asked_for_is_there(
    checkpoint: Path, tmp_path: Path
) -> None:
    with ExitStack() as opened:
        url = opened.enter_context(running_redis(tmp_path))
        server = Server(
            checkpoint, url, tmp_path / "server.log", "--max-running-sequences", "1", "--max-requests", "24"
        )
        opened.callback(server.stop, signal.SIGKILL)
        store = opened.enter_context(redis.Redis.from_url(url))
        house = House(server, store, tmp_path)
        prometheus = opened.enter_context(
            running_prometheus(tmp_path, targets=[house.target], rules=house.short_rules())
        )
        assert prometheus.firing() == set()
        for fault in FAULTS:
            assert not fault.alerts & prometheus.firing(), "an alert fires before its fault"
            with fault.cause(house):
                wait_for(prometheus, fault.alerts)
            if fault.cause is overload:
                assert_named_metrics_are_there(house)
                assert_panels_are_answered(prometheus)


def wait_for(prometheus: Prometheus, alerts: set[str]) -> None:
    """Until each of these alerts has fired."""
    deadline = time.monotonic() + 90
    missing = set(alerts)
    while missing and time.monotonic() < deadline:
        time.sleep(0.25)
        missing -= prometheus.firing()
    assert not missing, f"{missing} did not fire, and {prometheus.firing()} did"


def assert_panels_are_answered(prometheus: Prometheus) -> None:
    """Each query of the dashboard, with Grafana's variables filled in; the API answers 400 to what is no PromQL."""
    filled = [query.replace("$__rate_interval", "60s").replace("$instance", ".*") for query in queries()]
    found = [prometheus.value(query) for query in filled]
    assert sum(value is not None for value in found) > len(found) / 2


def assert_named_metrics_are_there(house: House) -> None:
    """Every name in the rules and in the dashboard is a series of `/metrics`, or a family of it that waits for one."""
    told = house.client.get("/metrics").text
    families = {line.split()[2] for line in told.splitlines() if line.startswith("# TYPE")}
    samples = {line.split("{")[0].split(" ")[0] for line in told.splitlines() if not line.startswith("#")}
    named = {name for query in [*queries(), *(rule["expr"] for rule in rules())] for name in NAME.findall(query)}
    assert len(named) > 40
    unknown = named - samples
    assert {name for name in unknown if re.sub("_(bucket|sum|count)$", "", name) not in families} == set()
