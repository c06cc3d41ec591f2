"""E15: resident memory of a server with the default model: idle, with many streams, with a long document."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.live import LiveServer
from benchmarks.measuring import Row, Spread

STREAMS = 32
STREAM_DOCUMENT, NEW_TOKENS = 1_200, 64  # tokens; of the former 150 vectors
PROMPT = "The keeper of the lighthouse wrote one line a day, and the inspector who came in the autumn read them all. "
LONG_TOKENS = 1_000_000
WORDS = ("the", "keeper", "wrote", "one", "line", "a", "day", "wind", "from", "north", "eleven", "ships", "no", "fog")
SECONDS_TO_REST = 15.0  # after the last step, when the engine has given back what it freed
MB = 1e6


def run(model: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    """The long document is read once, whatever the rounds: it takes its time."""
    idle, streaming = [], []
    for number in range(rounds):
        with LiveServer(folder, "--model", str(model)) as server:
            idle.append(server.resident_bytes() / MB)
            streaming.append(asyncio.run(_streaming(server, number)) / MB)
            if number + 1 == rounds:
                time.sleep(SECONDS_TO_REST)
                compressing = _compressing(server) / MB
    shape = f"{STREAMS} streams, {STREAM_DOCUMENT} tokens as vectors and {NEW_TOKENS} new ones each"
    for what, values, target in (
        ("after the start", idle, 1000.0),
        (f"peak while {shape}", streaming, 1500.0),
        (f"peak while a document of {LONG_TOKENS:,} tokens is compressed", [compressing], 1500.0),
    ):
        yield Row("E15", f"resident memory, default model, {what}", Spread.of(values), "MB", target, is_limit=True)


async def _streaming(server: LiveServer, seed: int) -> int:
    """The most bytes that are resident while streams run at once, each on a document of its own."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=600) as client:
        ids = []
        for number in range(STREAMS):
            text = words(STREAM_DOCUMENT, random.Random(STREAMS * seed + number))
            ids.append((await client.post("/compress", json={"text": text})).raise_for_status().json()["id"])
        server.forget_peak()
        await asyncio.gather(*(_stream(client, each) for each in ids))
    return server.peak_bytes()


async def _stream(client: httpx.AsyncClient, summary_id: str) -> None:
    body = {"summary_ids": [summary_id], "prompt": PROMPT, "max_tokens": NEW_TOKENS, "stream": True, "ignore_eos": True}
    async with client.stream("POST", "/generate", json=body) as response:
        response.raise_for_status()
        last = [line async for line in response.aiter_lines() if line][-1]
    if last != "data: [DONE]":
        raise RuntimeError(f"a stream ended with {last}")


def _compressing(server: LiveServer) -> int:
    """The most bytes that are resident while a long document is compressed, from its text."""
    text = words(LONG_TOKENS, random.Random(0))
    server.forget_peak()
    answer = httpx.post(f"http://127.0.0.1:{server.port}/compress", json={"text": text}, timeout=7200)
    told = answer.raise_for_status().json()
    if not LONG_TOKENS <= told["tokens"] <= 1.2 * LONG_TOKENS:
        raise RuntimeError(f"the document has {told['tokens']} tokens: {json.dumps(told)[:200]}")
    return server.peak_bytes()


def words(num_tokens: int, chance: random.Random) -> str:
    """A text of about so many tokens, at least as many, no two of whose segments are alike."""
    return " ".join(chance.choices(WORDS, k=num_tokens))
