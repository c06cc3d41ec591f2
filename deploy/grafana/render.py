"""Draw the dashboard without Grafana: each panel's own queries, asked of a Prometheus, by matplotlib.

    python deploy/grafana/render.py --out docs/dashboard.png  # with a load, a server and a Prometheus of its own
    python deploy/grafana/render.py --prometheus http://127.0.0.1:9090 --out now.png

The first needs `prometheus` on the PATH, and serves the bundled model `paper` from a store that is thrown away.
"""

import argparse
import json
import math
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
CHAPTER = HERE.parents[1] / "examples" / "chapter.txt"
SCRAPE_SECONDS = 1
RATE = "15s"  # in place of Grafana's $__rate_interval
INCHES = 0.75  # of a column and of a row of Grafana's grid of 24 columns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prometheus", help="URL of one that scrapes a server; none starts both")
    parser.add_argument("--seconds", type=int, default=120, help="how long back, and of a load of its own how long")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.prometheus is not None:
        draw(arguments.prometheus, arguments.seconds, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server, scraped(Path(folder), server) as url:
        load(server, arguments.seconds)
        draw(url, arguments.seconds, arguments.out)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """A process, from when `ready` answers 200 until the body ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with suppress(httpx.HTTPError):
                if httpx.get(ready).status_code == 200:
                    break
            time.sleep(0.1)
        else:
            sys.exit(f"{command[0]} did not start: {log.read_text()[-1000:]}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).parent / "autocompressor"), "serve", "--model", "paper"]
    command += ["--port", address.split(":")[1], "--store", f"sqlite:{folder}/store.sqlite3"]
    command += ["--max-requests", "16", "--max-running-sequences", "8", "--shutdown-seconds", "1"]
    with running(command, f"http://{address}/readyz", folder / "server.log"):
        yield address


@contextmanager
def scraped(folder: Path, server: str) -> Iterator[str]:
    if shutil.which("prometheus") is None:
        sys.exit("there is no prometheus on the PATH")
    job = {"job_name": "autocompressor", "static_configs": [{"targets": [server]}]}
    config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with running(command, f"http://{address}/-/ready", folder / "prometheus.log"):
        yield f"http://{address}"


def load(server: str, seconds: int) -> None:
    """Documents, questions, chats and scores, few at first and then more than there is room for."""
    ends = time.monotonic() + seconds
    words = CHAPTER.read_text().split()
    ids: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        chance = random.Random(number)
        if chance.random() < 0.5:
            time.sleep(seconds / 3)
        with httpx.Client(base_url=f"http://{server}", timeout=60) as client:
            name = client.get("/v1/models").json()["data"][0]["id"]
            while time.monotonic() < ends:
                with suppress(httpx.HTTPError):
                    chance.choice(calls)(client, chance, name)
                time.sleep(chance.random() * (0.5 if time.monotonic() > ends - seconds / 3 else 2))

    def some(chance: random.Random, number: int) -> str:
        start = chance.randrange(len(words))
        return " ".join((words * 2)[start : start + number])

    def compress(client: httpx.Client, chance: random.Random, _: str) -> None:
        body = {"text": some(chance, chance.randrange(50, 900)), "measure": chance.random() < 0.3}
        made = client.post("/compress", json=body).json()
        with lock:
            ids.extend([made["id"]] if "id" in made else [])
        if chance.random() < 0.3:
            client.post("/compress", json=body)

    def generate(client: httpx.Client, chance: random.Random, _: str) -> None:
        body: dict[str, Any] = {"prompt": some(chance, 10), "max_tokens": chance.randrange(8, 80)}
        with lock:
            body |= {"summary_ids": [chance.choice(ids[-12:])]} if ids else {}
        client.post("/generate", json=body)

    def complete(client: httpx.Client, chance: random.Random, name: str) -> None:
        text = some(chance, chance.choice([20, 1200, 6000]))
        client.post("/v1/completions", json={"model": name, "prompt": text, "max_tokens": 24})

    def score(client: httpx.Client, chance: random.Random, _: str) -> None:
        client.post("/score", json={"prompt": some(chance, 30), "continuations": [some(chance, 8) for _ in range(3)]})

    calls: list[Callable[[httpx.Client, random.Random, str], None]] = [compress, generate, generate, complete, score]
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(24)))


def draw(prometheus: str, seconds: int, out: Path) -> None:
    """Write the picture of the last `seconds`."""
    panels = json.loads((HERE / "dashboards" / "autocompressor.json").read_text())["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    plt.rcParams.update({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(24 * INCHES, height * INCHES / 2), facecolor="white")
    now = time.time()
    with httpx.Client(base_url=prometheus, timeout=30) as client:
        for panel in panels:
            place = panel["gridPos"]
            left, top = place["x"] / 24, 1 - place["y"] / height
            if panel["type"] == "row":
                figure.text(left + 0.004, top - 0.6 / height, panel["title"], weight="bold", size=10)
                continue
            bottom = top - (place["h"] - (2.1 if panel["type"] == "timeseries" else 0.5)) / height
            box = (left + 0.036, bottom, place["w"] / 24 - 0.044, top - 0.9 / height - bottom)
            axes = figure.add_axes(box)
            axes.set_title(panel["title"], loc="left", size=8)
            series = [
                (_label(target["legendFormat"], labels), points)
                for target in panel["targets"]
                for labels, points in _asked(client, target["expr"], now - seconds, now)
            ]
            (_lines if panel["type"] == "timeseries" else _number)(axes, panel, series, now)
    figure.savefig(out, dpi=80)


def _asked(client: httpx.Client, query: str, start: float, end: float) -> Iterator[tuple[dict[str, str], Any]]:
    query = query.replace("$__rate_interval", RATE).replace("$instance", ".*")
    params = {"query": query, "start": start, "end": end, "step": SCRAPE_SECONDS}
    answered = client.get("/api/v1/query_range", params=params)
    if answered.status_code != 200:
        sys.exit(f"{query}: {answered.text}")
    for found in answered.json()["data"]["result"]:
        yield found["metric"], [(float(when), float(value)) for when, value in found["values"]]


def _label(pattern: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit in ("bytes", "Bps") and value:
        power = min(3, max(0, int(math.log(abs(value), 1024))))
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}" + ("/s" if unit == "Bps" else "")
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or not value else f"{1000 * value:.3g} ms"
    return f"{value:.4g}"


def _lines(axes: Axes, panel: dict[str, Any], series: list[tuple[str, Any]], now: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for label, points in sorted(series):
        known = [(when - now, value) for when, value in points if math.isfinite(value)]
        if known:
            axes.plot(*zip(*known, strict=True), label=label, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _shown(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(fontsize=5.5, ncols=4, loc="upper left", bbox_to_anchor=(-0.02, -0.12), frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center", color="gray")


def _number(axes: Axes, panel: dict[str, Any], series: list[tuple[str, Any]], _: float) -> None:
    axes.axis("off")
    known = [value for _, points in series for _, value in points if math.isfinite(value)]
    told = _shown(known[-1], panel["fieldConfig"]["defaults"]["unit"]) if known else "nothing"
    axes.text(0, 0.3, told, transform=axes.transAxes, size=18)


if __name__ == "__main__":
    main()
