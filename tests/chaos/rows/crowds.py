"""Too many clients, clients that leave, and clients that mean ill."""

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import zstandard

from tests.chaos.documents import text_of
from tests.chaos.house import House, Load, Served, fill, judge_kept, judge_load, judge_log
from tests.chaos.outcome import Outcome, quantile

PLACES, ROWS = 32, 8
OVERLOAD = ("--max-requests", str(PLACES), "--max-running-sequences", str(ROWS))
TIMES = 10  # what the server can do
BULK_CLIENTS, BULK_DOCUMENTS = 16, 8
CALIBRATION_SECONDS = 5.0
MOST_SECONDS = 120.0  # without an answer
MOST_LIVE_SECONDS = 1.0  # /livez meanwhile
TOGETHER = 32  # that leave at the same time
MOST_GROWTH = 1.05
BODY_BYTES, BODY_SECONDS = 2**20, 3
HEADER_SECONDS = 20.0  # as Connection has it
MOST_HONEST_SECONDS = 2.0
NO_LIMIT = httpx.Limits(max_connections=None)


@dataclass
class Answers:
    """Of one kind of call: statuses, and how long good ones took, with when they were sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    good: list[tuple[float, float]] = field(default_factory=list)
    without_retry_after: int = 0
    unanswered: list[str] = field(default_factory=list)

    async def post(self, port: int, path: str, body: dict[str, Any]) -> None:
        """One call on a connection of its own: a pool of thousands would take longer than the server."""
        started, data = time.monotonic(), json.dumps(body).encode()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close"
                writer.write(f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                async with asyncio.timeout(MOST_SECONDS):
                    headers, _, answer = (await reader.read()).partition(b"\r\n\r\n")
            status = int(headers.split(b" ", 2)[1])
        except (OSError, TimeoutError, IndexError) as error:
            self.unanswered.append(repr(error))
            return
        self.statuses[status] += 1
        if status < 300:
            json.loads(answer)
            self.good.append((started, time.monotonic() - started))
        elif status in (429, 503) and b"\r\nretry-after:" not in headers.lower():
            self.without_retry_after += 1

    def p99(self, since: float = 0.0, until: float = float("inf")) -> float:
        return quantile([seconds for started, seconds in self.good if since <= started < until], 0.99)


def overload(house: House, outcome: Outcome) -> None:
    """Ten times as many questions a second as it can answer, beside clients that send documents by the list."""
    with house.served(f"sqlite:{house.folder}/store.sqlite3", *OVERLOAD) as served:
        fill(house, served, 20)
        asyncio.run(_overloaded(house, served, outcome))
        held = served.wait_until_idle()
        outcome.require(not held, f"still held at the end: {held}")
        judge_log(served, outcome)


async def _overloaded(house: House, served: Served, outcome: Outcome) -> None:
    draw = random.Random(house.seed)

    def question() -> dict[str, Any]:
        ids = [house.expected[draw.randrange(20)].id]
        return {"summary_ids": ids, "prompt": "Who?", "max_tokens": 150, "temperature": 0, "ignore_eos": True}

    port = int(served.url.rpartition(":")[2])
    async with httpx.AsyncClient(base_url=served.url, timeout=MOST_SECONDS) as client:
        alone = Answers()
        async with _again_and_again([lambda: alone.post(port, "/generate", question())] * ROWS):
            await asyncio.sleep(min(CALIBRATION_SECONDS, house.seconds))
        capacity = len(alone.good) / min(CALIBRATION_SECONDS, house.seconds)
        house.say(f"{capacity:.1f} questions a second alone, {TIMES} times as many now for {house.seconds:g} s")
        questions, lists, probes = Answers(), Answers(), Answers()
        numbers = iter(range(10**6, 10**9))

        async def send_list() -> None:
            texts = [{"text": text_of(next(numbers))} for _ in range(BULK_DOCUMENTS)]
            await lists.post(port, "/compress", {"documents": texts})

        async def probe() -> None:
            started = time.monotonic()
            assert (await client.get("/livez")).is_success
            probes.good.append((started, time.monotonic() - started))
            await asyncio.sleep(0.2)

        started, tasks = time.monotonic(), []
        async with _again_and_again([send_list] * BULK_CLIENTS + [probe]):
            sent = 0
            while (now := time.monotonic() - started) < house.seconds:
                due = int(now * capacity * TIMES)
                tasks += [asyncio.create_task(questions.post(port, "/generate", question())) for _ in range(due - sent)]
                sent = due
                await asyncio.sleep(0.005)
            house.say(f"{sent} questions sent, {len(questions.good)} answered, {questions.statuses[429]} refused")
        await asyncio.gather(*tasks)
        middle = started + house.seconds / 2
    limit = 3 * PLACES / capacity + 1
    outcome.counts |= {
        "questions a second alone": capacity,
        "questions sent": sent,
        "answered": len(questions.good),
        "refused, 429": questions.statuses[429],
        "their p50, s": quantile([seconds for _, seconds in questions.good], 0.5),
        "p99, s": questions.p99(),
        "p99 of the first half, s": questions.p99(until=middle),
        "p99 of the second half, s": questions.p99(since=middle),
        "p99 alone, s": alone.p99(),
        "limit of p99, s": limit,
        "lists of documents answered": len(lists.good),
        "lists refused": lists.statuses.total() - len(lists.good),
        "slowest list, s": max((seconds for _, seconds in lists.good), default=0.0),
        "slowest /livez, s": max((seconds for _, seconds in probes.good), default=0.0),
        "without an answer": len(questions.unanswered) + len(lists.unanswered),
    }
    outcome.require(questions.p99() <= limit, f"p99 of accepted questions is {questions.p99():.1f} s")
    outcome.require(questions.statuses[429] > len(questions.good), "it was no overload")
    outcome.require(len(questions.good) > 0 and len(lists.good) > 0, "one kind was never answered")
    for name, each in (("questions", questions), ("lists", lists)):
        odd = {status: n for status, n in each.statuses.items() if status not in (200, 201, 429)}
        outcome.require(not odd, f"{name} were answered {odd}")
        outcome.require(not each.without_retry_after, f"{each.without_retry_after} refused {name} have no Retry-After")
        outcome.require(not each.unanswered, f"{len(each.unanswered)} {name} got no answer: {each.unanswered[:3]}")
    slowest = max((seconds for _, seconds in probes.good), default=0.0)
    outcome.require(slowest <= MOST_LIVE_SECONDS, f"/livez took {slowest:.2f} s")


class _again_and_again:  # noqa: N801  # used as the function that it is
    """While the body runs, each of these calls is made again and again; those under way are waited for at the end."""

    def __init__(self, calls: list[Callable[[], Awaitable[None]]]) -> None:
        self._calls, self._is_over = calls, False

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(self._go_on(call)) for call in self._calls]

    async def _go_on(self, call: Callable[[], Awaitable[None]]) -> None:
        while not self._is_over:
            await call()

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)


def leaving(house: House, outcome: Outcome) -> None:
    """Streams of long answers whose clients leave after a few lines, or before the first."""
    with house.served(f"sqlite:{house.folder}/store.sqlite3") as served:
        fill(house, served, 20)
        _, files, threads = served.size()
        sizes = []
        with Load(house.plan(served.url, clients=2, kinds={"generate": 4, "export": 1, "compress": 1})) as clients:
            for start in range(0, house.rounds, TOGETHER):
                asyncio.run(_leave(house, served, min(TOGETHER, house.rounds - start), seed=start))
                sizes.append(served.size()[0])
            house.say(f"{house.rounds} clients have left")
        outcome.counts["clients that left"] = house.rounds
        held = served.wait_until_idle()
        outcome.require(not held, f"still held: {held}")
        until_files = _files_when_idle(served, files)
        warm = max(sizes[: max(1, len(sizes) // 3)])
        outcome.counts |= {
            "rows held": 100 * served.gauge("kv_rows_used_ratio"),
            "MB after a third": warm / 1e6,
            "MB at the end": sizes[-1] / 1e6,
            "descriptors more than at the start": until_files - files,
            "threads more than at the start": served.size()[2] - threads,
        }
        outcome.require(until_files <= files, f"{until_files} descriptors, {files} at the start")
        outcome.require(sizes[-1] <= MOST_GROWTH * warm, f"{sizes[-1] / 1e6:.0f} MB, {warm / 1e6:.0f} after a third")
        asyncio.run(_use_all_rows(served, outcome))
        judge_load(clients.record, outcome)
        judge_kept(house, served, clients.record, outcome)
        judge_log(served, outcome)


def _files_when_idle(served: Served, most: int) -> int:
    """Descriptors, once connections of clients that are gone are closed."""
    deadline = time.monotonic() + 10
    while (files := served.size()[1]) > most and time.monotonic() < deadline:
        time.sleep(0.1)
    return files


async def _leave(house: House, served: Served, number: int, *, seed: int) -> None:
    draw = random.Random(seed)

    async def one() -> None:
        ids = [house.expected[draw.randrange(20)].id] if draw.random() < 0.5 else []
        body = {"summary_ids": ids, "prompt": "On", "max_tokens": 400, "temperature": 0, "ignore_eos": True}
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            if draw.random() < 0.2:  # before there is an answer
                try:
                    await client.post("/generate", json=body, timeout=draw.uniform(0.01, 0.2))
                except httpx.TimeoutException:
                    return
            async with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
                left = draw.randint(0, 6)
                async for _ in response.aiter_lines():
                    left -= 1
                    if left < 0:
                        return

    await asyncio.gather(*(one() for _ in range(number)))


async def _use_all_rows(served: Served, outcome: Outcome) -> None:
    """Every row of the pool answers again."""
    body = {"prompt": "On", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=NO_LIMIT) as client:
        answers = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(TOGETHER)))
    texts = {answer.json()["text"] for answer in answers if answer.is_success}
    outcome.require(all(answer.is_success for answer in answers), "a row does not answer after all have left")
    outcome.require(len(texts) == 1, "rows answer differently")


Bytes = Callable[[], AsyncIterator[bytes]]


def _head(*lines: str) -> bytes:
    first = ("POST /compress HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return ("\r\n".join((*first, *lines)) + "\r\n").encode()


def _whole(*lines: str, body: bytes) -> Bytes:
    async def sent() -> AsyncIterator[bytes]:
        yield _head(f"Content-Length: {len(body)}", *lines) + b"\r\n" + body

    return sent


async def _silent() -> AsyncIterator[bytes]:
    yield b""
    await asyncio.sleep(3600)


async def _slow_headers() -> AsyncIterator[bytes]:
    yield _head()
    while True:
        yield b"X"
        await asyncio.sleep(0.5)


async def _slow_body() -> AsyncIterator[bytes]:
    yield _head("Content-Length: 100000") + b'\r\n{"text": "'
    while True:
        yield b"a"
        await asyncio.sleep(0.5)


async def _stalled_body() -> AsyncIterator[bytes]:
    yield _head("Content-Length: 100000") + b'\r\n{"text": "' + b"a" * 1000
    await asyncio.sleep(3600)


async def _endless_chunks() -> AsyncIterator[bytes]:
    yield _head("Transfer-Encoding: chunked") + b"\r\n"
    while True:
        yield b"10000\r\n" + b"a" * 0x10000 + b"\r\n"


async def _endless_headers() -> AsyncIterator[bytes]:
    yield _head()
    while True:
        yield b"X-Much: " + b"a" * 1000 + b"\r\n"


BOMB = b'{"text": "' + b"a" * (8 * 2**20) + b'"}'
TOO_MUCH = b'{"text": "' + b"a" * (2 * BODY_BYTES) + b'"}'
# what is sent, by how many at a time, and how it may be answered; 0 is a connection that is closed without a word, or
# with one that the kernel throws away, as the client goes on sending
ATTACKS: dict[str, tuple[Bytes, int, set[int]]] = {
    "silent": (_silent, 50, {0}),
    "slow headers": (_slow_headers, 100, {0, 408}),
    "slow body": (_slow_body, 100, {408}),
    "stalled body": (_stalled_body, 100, {408}),
    "endless chunks": (_endless_chunks, 8, {0, 413, 429}),
    "endless headers": (_endless_headers, 20, {0, 431}),
    "over the limit": (_whole(body=TOO_MUCH), 8, {0, 413, 429}),
    "gzip bomb": (_whole("Content-Encoding: gzip", body=gzip.compress(BOMB)), 8, {413, 429}),
    "zstd bomb": (_whole("Content-Encoding: zstd", body=zstandard.compress(BOMB)), 8, {413, 429}),
    "half a gzip": (_whole("Content-Encoding: gzip", body=gzip.compress(b'{"text": "a"}')[:-6]), 20, {400}),
    "no gzip": (_whole("Content-Encoding: gzip", body=b'{"text": "a"}'), 20, {400}),
    "unknown encoding": (_whole("Content-Encoding: br", body=b'{"text": "a"}'), 20, {415}),
    "gzip twice": (_whole("Content-Encoding: gzip, gzip", body=gzip.compress(b"{}")), 20, {415}),
}


def bodies(house: House, outcome: Outcome) -> None:
    """All kinds at once, again and again, beside clients that mean well."""
    flags = ("--max-body-bytes", str(BODY_BYTES), "--body-seconds", str(BODY_SECONDS))
    with house.served(f"sqlite:{house.folder}/store.sqlite3", *flags) as served:
        fill(house, served, 1)
        _, files, _ = served.size()
        seen: dict[str, Counter[int]] = {name: Counter() for name in ATTACKS}
        slowest = dict.fromkeys(ATTACKS, 0.0)
        with Load(house.plan(served.url, clients=2)) as clients:
            for number in range(house.rounds):
                asyncio.run(_attack(int(served.url.rpartition(":")[2]), seen, slowest))
                house.say(f"{number + 1} of {house.rounds} rounds, {clients.progress['answered']} honest answers")
        outcome.counts["attacks"] = sum(each.total() for each in seen.values())
        for name, (_, _, fine) in ATTACKS.items():
            odd = {status: n for status, n in seen[name].items() if status not in fine}
            outcome.require(not odd, f"{name}: answered {odd}, where it may be {fine}")
            told = ", ".join(f"{n} × {status or 'closed'}" for status, n in sorted(seen[name].items()))
            outcome.counts[name] = f"{told} within {slowest[name]:.1f} s"
        held = served.wait_until_idle()
        outcome.require(not held, f"still held: {held}")
        files_after = _files_when_idle(served, files)
        outcome.require(files_after <= files, f"{files_after} descriptors, {files} at the start")
        judge_load(clients.record, outcome)
        honest = quantile(clients.record.all_seconds, 0.99)
        outcome.counts["p99 of honest answers, s"] = honest
        outcome.require(honest <= MOST_HONEST_SECONDS, f"p99 of honest answers is {honest:.1f} s")
        judge_kept(house, served, clients.record, outcome)
        judge_log(served, outcome)


async def _attack(port: int, seen: dict[str, Counter[int]], slowest: dict[str, float]) -> None:
    async def one(name: str, sent: Bytes) -> None:
        started = time.monotonic()
        seen[name][await _status(port, sent)] += 1
        slowest[name] = max(slowest[name], time.monotonic() - started)

    await asyncio.gather(*(one(name, sent) for name, (sent, count, _) in ATTACKS.items() for _ in range(count)))


async def _status(port: int, sent: Bytes) -> int:
    """What the server answers while it is sent these bytes; 0 where it closes without, -1 where it lets them go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        try:
            async for some in sent():
                writer.write(some)
                await writer.drain()
        except ConnectionError:
            return

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(2 * HEADER_SECONDS):
            line = await reader.readline()
    except TimeoutError:
        return -1
    except ConnectionError:
        return 0
    finally:
        sending.cancel()
        writer.close()
    return int(line.split()[1]) if line else 0
