"""E6, E7: what HTTP costs, and lookups of stored documents."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.live import Connection, LiveServer
from benchmarks.machine import ROOT
from benchmarks.measuring import Row, Spread, ratios, take_turns
from benchmarks.questions import store
from benchmarks.subject import ROW_TOKENS, SEGMENT_LENGTH, Subject, random_ids
from server.core.prompts.plan import SummaryPart, TextPart
from server.engine.protocol import Prompt

NEW_TOKENS, CONCURRENCY = 64, 32
DOCUMENT_BYTES = 24_000
LOOKUPS, CLIENTS = 2000, 16
PROMPT = "The keeper of the lighthouse wrote one line a day, and the inspector who came in the autumn read them all. "


def run(subject: Subject, model: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    with LiveServer(folder, "--model", str(model), "--max-sequence-tokens", str(ROW_TOKENS)) as server:
        yield from _through_http(subject, server, rounds)
    with LiveServer(folder, "--model", "paper") as server:
        yield from _lookups(server, rounds)


def _through_http(subject: Subject, server: LiveServer, rounds: int) -> Iterator[Row]:
    documents = [random_ids(3 * SEGMENT_LENGTH, 900 + seed) for seed in range(CONCURRENCY)]
    summary_ids = subject.run(store(subject, documents))
    subject.run(_compress_all(server.port, documents))

    def request(summary_id: str) -> bytes:
        body = {"summary_ids": [summary_id], "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0}
        return json.dumps(body | {"ignore_eos": True}).encode()

    async def one(summary_id: str, connection: Connection) -> None:
        await connection.post("/generate", request(summary_id))

    async def own(summary_id: str) -> None:
        prompter = subject.services.prompter
        plan = await prompter.plan(subject.call, [SummaryPart(summary_id), TextPart(PROMPT)])
        prompt: Prompt = await prompter.assemble(plan)
        await subject.drain(prompt, NEW_TOKENS)

    async def through_http(count: int) -> float:
        connections = [await Connection.to(server.port) for _ in range(count)]
        started = time.perf_counter()
        await asyncio.gather(*map(one, summary_ids, connections))
        seconds = time.perf_counter() - started
        for connection in connections:
            connection.close()
        return seconds

    async def in_process(count: int) -> float:
        started = time.perf_counter()
        await asyncio.gather(*map(own, summary_ids[:count]))
        return time.perf_counter() - started

    def by_http(count: int) -> float:
        server.go_on()
        seconds: float = subject.run(through_http(count))
        server.stand_still()
        return seconds

    for count in (CONCURRENCY, 1):
        sides = {"HTTP": lambda: by_http(count), "in process": lambda: subject.run(in_process(count))}  # noqa: B023
        measured = take_turns(sides, rounds)
        if count == 1:
            more = [1000 * (one - other) for one, other in zip(measured["HTTP"], measured["in process"], strict=True)]
            latencies = {name: Spread.of([1000 * value for value in values]) for name, values in measured.items()}
            what = f"HTTP over in-process, one request of {NEW_TOKENS} tokens: added latency"
            yield Row("E6", what, Spread.of(more), "ms", 2.0, is_limit=True, sides=latencies, side_unit="ms")
        else:
            rates = {
                name: Spread.of([count * NEW_TOKENS / value for value in values]) for name, values in measured.items()
            }
            what = f"HTTP over in-process, {count} at once: tokens/s"
            gain = ratios(measured["in process"], measured["HTTP"])
            yield Row("E6", what, gain, "×", 0.95, sides=rates, side_unit="tokens/s")
    server.go_on()


async def _compress_all(port: int, documents: list[list[int]]) -> None:
    connection = await Connection.to(port)
    for document in documents:
        await connection.post_json("/compress", token_ids=document)
    connection.close()


def _lookups(server: LiveServer, rounds: int) -> Iterator[Row]:
    text = (ROOT / "examples" / "chapter.txt").read_text()
    body = json.dumps({"text": (text * (1 + DOCUMENT_BYTES // len(text)))[:DOCUMENT_BYTES]}).encode()
    latencies: list[float] = []
    rates: list[float] = []

    async def looked_up(count: int) -> list[float]:
        connection = await Connection.to(server.port)
        times = []
        for _ in range(count):
            started = time.perf_counter()
            await connection.post("/compress", body)
            times.append(time.perf_counter() - started)
        connection.close()
        return times

    async def together() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(looked_up(LOOKUPS // CLIENTS) for _ in range(CLIENTS)))
        return LOOKUPS / (time.perf_counter() - started)

    asyncio.run(looked_up(20))
    for _ in range(rounds):
        latencies.append(1000 * Spread.of(asyncio.run(looked_up(200))).median)
        rates.append(asyncio.run(together()))
    yield Row(
        "E7", "/compress of a stored document of 24 kB: p50, one client", Spread.of(latencies), "ms", 0.6, is_limit=True
    )
    what = f"/compress of a stored document of 24 kB, {CLIENTS} clients"
    yield Row("E7", what, Spread.of(rates), "requests/s", 2500.0)
