"""Several servers on one Redis behind nginx, under load: how many requests a second, and what clients see when one is
killed and when all are restarted in turn.

    python -m benchmarks.replicas --replicas 3 --seconds 20

Needs `nginx` and `redis-server` on the PATH; nginx runs with `deploy/nginx/autocompressor.conf`, other ports written
in. Each client draws one request after the other: a stored document again, a new one, a question on a stored summary,
whole and streamed, and a job. Answers are greedy, and compared with those of a server alone. Ends with status 1 where
an answer was wrong, or one failed that the balancer could have had from another replica.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.live import LiveServer, free_port
from tests.redis_server import running_redis

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx" / "autocompressor.conf"
NUM_DOCUMENTS, NUM_CLIENTS, ANSWER_TOKENS, STREAM_TOKENS = 12, 12, 8, 24
WORDS = ("the", "keeper", "wrote", "one", "line", "a", "day", "wind", "from", "north", "eleven", "ships", "no", "fog")
PAUSE_SECONDS = 3.0  # between what is done to replicas, so that their load is as before


@dataclass
class Outcome:
    """What clients saw: answers by kind; what was `wrong`, `failed` by a 5xx or no answer, or `cut` midway."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(self.answers.items()))
        total = sum(self.answers.values())
        faults = ", ".join(f"{number} × {what}" for what, number in sorted(self.failed.items())) or "none"
        return (
            f"{total} answers in {self.seconds:.0f} s, {total / self.seconds:.1f} a second ({kinds}); wrong: "
            f"{sum(self.wrong.values())}; failed: {faults}; streams cut: {self.cut}; refused (429): {self.refused}; "
            f"slowest {self.slowest_seconds:.1f} s"
        )


class Load:
    """Clients of one address, which know what is stored and what each answer is to be."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._documents = documents
        self._random = random.Random(0)
        self._ids: list[str] = []
        self._told: dict[str, tuple[str, str]] = {}
        self._outcome = Outcome()

    async def learn(self, url: str) -> None:
        """What a server alone answers."""
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            for text in self._documents:
                made = (await client.post("/compress", json={"text": text})).raise_for_status().json()
                self._ids.append(made["id"])
                told = []
                for most in (ANSWER_TOKENS, STREAM_TOKENS):
                    answer = await client.post("/generate", json=self._question(made["id"], most))
                    told.append(answer.raise_for_status().json()["text"])
                self._told[made["id"]] = (told[0], told[1])

    async def run(self, url: str, until: Callable[[], bool]) -> Outcome:
        """Have clients ask until it is time to stop; each request that was begun is waited for."""
        self._outcome, started = Outcome(), time.perf_counter()
        limits = httpx.Limits(max_connections=NUM_CLIENTS * 2)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            await asyncio.gather(*(self._client(client, until) for _ in range(NUM_CLIENTS)))
        self._outcome.seconds = time.perf_counter() - started
        return self._outcome

    async def _client(self, client: httpx.AsyncClient, until: Callable[[], bool]) -> None:
        kinds = [self._again] * 4 + [self._new] * 2 + [self._asked] * 3 + [self._streamed] * 2 + [self._job]
        while not until():
            ask, started = self._random.choice(kinds), time.perf_counter()
            kind = ask.__name__.strip("_")
            try:
                is_right = await ask(client)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                self._outcome.refused += status == 429
                self._outcome.failed[f"{kind} {status}"] += status != 429
            except httpx.TransportError as error:
                self._outcome.failed[f"{kind} {type(error).__name__}"] += 1
            else:
                self._outcome.answers[kind] += is_right is not None
                self._outcome.wrong[kind] += is_right is False
            self._outcome.slowest_seconds = max(self._outcome.slowest_seconds, time.perf_counter() - started)
        self._outcome.failed += Counter()  # without what is 0

    async def _again(self, client: httpx.AsyncClient) -> bool:
        place = self._random.randrange(len(self._documents))
        answer = (await client.post("/compress", json={"text": self._documents[place]})).raise_for_status()
        return bool(answer.json()["id"] == self._ids[place])

    async def _new(self, client: httpx.AsyncClient) -> bool:
        answer = (await client.post("/compress", json={"text": drawn_text(self._random, 40)})).raise_for_status()
        found = await client.get(f"/summaries/{answer.json()['id']}")  # from whichever replica
        return found.raise_for_status().is_success

    async def _asked(self, client: httpx.AsyncClient) -> bool:
        own = self._random.choice(self._ids)
        answer = (await client.post("/generate", json=self._question(own, ANSWER_TOKENS))).raise_for_status()
        return bool(answer.json()["text"] == self._told[own][0])

    async def _streamed(self, client: httpx.AsyncClient) -> bool | None:
        own, text, is_whole = self._random.choice(self._ids), "", False
        body = self._question(own, STREAM_TOKENS) | {"stream": True}
        try:
            async with client.stream("POST", "/generate", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        is_whole = True
                    elif line.startswith("data: "):
                        text += json.loads(line.removeprefix("data: ")).get("text", "")
        except httpx.TransportError:
            if not text:
                raise
        if not is_whole:
            self._outcome.cut += 1
            return None
        return text == self._told[own][1]

    async def _job(self, client: httpx.AsyncClient) -> bool:
        """Accepted once, whoever is asked, and done in the end, whoever does it."""
        key = {"Idempotency-Key": f"{self._random.getrandbits(64)}"}
        body = {"text": drawn_text(self._random, 40)}
        first, again = [
            (await client.post("/jobs/compress", json=body, headers=key)).raise_for_status() for _ in range(2)
        ]
        job = first.json()
        while job["status"] not in ("done", "failed", "cancelled"):
            await asyncio.sleep(0.1)
            job = (await client.get(f"/jobs/{job['id']}")).raise_for_status().json()
        return bool(job["status"] == "done" and again.json()["id"] == job["id"])

    def _question(self, summary_id: str, most: int) -> dict[str, object]:
        words = {"summary_ids": [summary_id], "prompt": "The keeper wrote:"}
        return {**words, "max_tokens": most, "temperature": 0, "ignore_eos": True}


class Replicas:
    """Servers on one store, each of which keeps its port when it is started again."""

    def __init__(self, folder: Path, store: str, model: str, number: int) -> None:
        self._start: Callable[[int], LiveServer] = lambda port: LiveServer(
            folder, "--model", model, "--shutdown-seconds", "30", store=store, port=port
        )
        self.servers = [self._start(free_port()) for _ in range(number)]

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def restart(self, place: int, number: signal.Signals) -> tuple[int, float, float]:
        """End one by a signal and start it anew: its exit status, the seconds it took to end and to be ready."""
        started = time.perf_counter()
        status = self.servers[place].end(number)
        seconds = time.perf_counter() - started
        self.servers[place] = self._start(self.servers[place].port)
        return status, seconds, self.servers[place].seconds_to_ready

    def close(self) -> None:
        for server in self.servers:
            server.__exit__()


def drawn_text(draw: random.Random, num_words: int) -> str:
    return f"{draw.getrandbits(64)} " + " ".join(draw.choice(WORDS) for _ in range(num_words))


def configured(port: int, ports: Sequence[int]) -> str:
    """The project's configuration of nginx, listening at a port before servers at others."""
    servers = "".join(f"  server 127.0.0.1:{each} max_fails=2 fail_timeout=2s;\n" for each in ports)
    written = re.sub(r"(?m)(^  server 127\.0\.0\.1:.*\n)+", servers, CONFIGURATION.read_text())
    return written.replace("listen 127.0.0.1:8000", f"listen 127.0.0.1:{port}")


@contextlib.contextmanager
def balanced(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """The URL of an nginx before servers at these ports."""
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\nevents {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; {places}\n{configured(port, ports)}}}\n"
    )
    process = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx.log"])
    try:
        _wait_for(f"http://127.0.0.1:{port}/livez")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str) -> None:
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer")


async def measure(replicas: Replicas, load: Load, url: str, seconds: float) -> bool:
    """Load all of it, each phase for at least so many seconds; whether no answer was wrong and none failed."""
    alone = f"http://127.0.0.1:{replicas.ports[0]}"
    await load.learn(alone)
    outcomes = []
    for name, address in (("one replica, asked directly", alone), ("all replicas, by nginx", url)):
        outcomes.append(await load.run(address, after(seconds)))
        print(f"{name}: {outcomes[-1]}", flush=True)
    number = len(replicas.servers)

    async def kill() -> str:
        status, _, ready = await in_thread(lambda: replicas.restart(number - 1, signal.SIGKILL))
        return f"ended with {status}, ready again after {ready:.1f} s"

    async def restart_all() -> str:
        told = []
        for place in range(number):
            status, gone, ready = await in_thread(lambda place=place: replicas.restart(place, signal.SIGTERM))
            told.append(f"{status} after {gone:.1f} s, ready after {ready:.1f} s")
            await asyncio.sleep(PAUSE_SECONDS)
        return "; ".join(told)

    for name, change in (("one is killed (-9)", kill), ("all are restarted in turn", restart_all)):
        outcome, told = await beside(load, url, change, seconds)
        outcomes.append(outcome)
        print(f"{name} ({told}): {outcome}", flush=True)
    return not any(outcome.wrong.total() or outcome.failed.total() for outcome in outcomes)


async def beside(load: Load, url: str, change: Callable[[], Awaitable[str]], seconds: float) -> tuple[Outcome, str]:
    """Run the load while something is done to replicas, and for some seconds before and after it."""
    is_over = asyncio.Event()
    running = asyncio.create_task(load.run(url, is_over.is_set))
    await asyncio.sleep(PAUSE_SECONDS)
    started = time.perf_counter()
    told = await change()
    await asyncio.sleep(max(PAUSE_SECONDS, seconds - (time.perf_counter() - started)))
    is_over.set()
    return await running, told


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds are over."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


async def in_thread(work: Callable[[], tuple[int, float, float]]) -> tuple[int, float, float]:
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=3, help="how many servers")
    parser.add_argument("--seconds", type=float, default=20, help="that each phase takes at least")
    parser.add_argument("--model", default="paper", help="what is served")
    asked = parser.parse_args()
    for program in ("nginx", "redis-server"):
        if shutil.which(program) is None:
            parser.error(f"there is no {program} on the PATH")
    os.environ["OMP_NUM_THREADS"] = "1"  # of each server: they share the machine's cores
    draw = random.Random(1)
    load = Load([drawn_text(draw, 200) for _ in range(NUM_DOCUMENTS)])
    with tempfile.TemporaryDirectory() as place, running_redis(Path(place)) as store:
        folder = Path(place)
        folder.chmod(0o755)  # nginx's workers are another user
        replicas = Replicas(folder, store, asked.model, asked.replicas)
        try:
            with balanced(folder, replicas.ports) as url:
                is_right = asyncio.run(measure(replicas, load, url, asked.seconds))
        finally:
            replicas.close()
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
