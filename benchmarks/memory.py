"""Whether a server's memory stays flat: its VmRSS over thousands of mixed requests, some of them cut off or wrong.

python -m benchmarks.memory --requests 2000
"""

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.live import LiveServer

CLIENTS = 4
READ_EVERY = 200  # requests
MAX_KEPT = 40  # summaries; the oldest is deleted for each one more
WARM_SHARE = 0.4  # of all requests, after which caches are full and memory is to stay
MAX_GROWTH = 1.05  # of what it is then
WORDS = ("the", "keeper", "wrote", "one", "line", "a", "day", "wind", "from", "north", "eleven", "ships", "no", "fog")
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/generate", {"summary_ids": ["0" * 64], "prompt": "a"}),
    ("/generate", {"prompt": "a", "max_tokens": 0}),
    ("/compress", {"token_ids": [-1] * 100_000}),
    ("/compress", {"text": ""}),
    ("/score", {"prompt": "a", "continuations": [""]}),
    ("/v1/chat/completions", {"messages": "none"}),
    ("/tokenize", {"text": "a", "unknown": 1}),
)


class Clients:
    """Draws requests from one stream of chance, and knows which summaries are there."""

    def __init__(self, client: httpx.AsyncClient, seed: int) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._kept: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._kinds: list[Callable[[], Awaitable[None]]] = [
            *[self.compress] * 5,
            *[self.generate] * 5,
            *[self.leave] * 2,
            *[self.score] * 3,
            *[self.rerank] * 2,
            self.complete,
            self.tokenize,
            self.bad,
        ]

    async def request(self) -> None:
        """One request of any kind."""
        await self._random.choice(self._kinds)()

    def _text(self, most: int) -> str:
        words = [self._random.choice(WORDS) for _ in range(self._random.randint(1, most))]
        return f"{self._random.getrandbits(64)} {' '.join(words)}"

    def _condition(self) -> dict[str, Any]:
        some = self._random.sample(self._kept, min(len(self._kept), self._random.randint(0, 2)))
        return {"summary_ids": some, "prompt": self._text(60)}

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        response = await self._client.post(path, json=body)
        self.statuses[response.status_code] += 1
        return response.json()

    async def compress(self) -> None:
        """A document of up to three thousand words, most far shorter; beyond some the oldest goes."""
        text = self._text(self._random.choice((20, 100, 300, 600, 3_000)))
        answer = await self._post("/compress", {"text": text, "keep_text": self._random.random() < 0.5})
        if "id" in answer:
            self._kept.append(answer["id"])
        while len(self._kept) > MAX_KEPT:
            response = await self._client.delete(f"/summaries/{self._kept.pop(0)}")
            self.statuses[response.status_code] += 1

    async def generate(self) -> None:
        most = self._random.randint(1, 16)
        await self._post("/generate", {**self._condition(), "max_tokens": most, "seed": 1})

    async def leave(self) -> None:
        """A stream whose client has enough after a few lines."""
        body = {**self._condition(), "max_tokens": 200, "stream": True, "ignore_eos": True}
        async with self._client.stream("POST", "/generate", json=body) as response:
            self.statuses[response.status_code] += 1
            num_lines = self._random.randint(0, 8)
            async for _ in response.aiter_lines():
                num_lines -= 1
                if num_lines < 0:
                    break

    async def score(self) -> None:
        continuations = [self._text(20) for _ in range(self._random.randint(1, 6))]
        await self._post("/score", {**self._condition(), "continuations": continuations})

    async def rerank(self) -> None:
        documents = [self._text(80) for _ in range(self._random.randint(1, 4))]
        await self._post("/rerank", {"query": self._text(10), "documents": documents})

    async def complete(self) -> None:
        """A prompt that may be longer than the window."""
        body = {"prompt": self._text(self._random.choice((50, 50, 2_000))), "max_tokens": 8, "logprobs": 2}
        await self._post("/v1/completions", body)

    async def tokenize(self) -> None:
        await self._post("/tokenize", {"text": self._text(5_000)})

    async def bad(self) -> None:
        await self._post(*self._random.choice(BAD))


async def measure(server: LiveServer, num_requests: int) -> list[tuple[int, int]]:
    """After how many requests how many bytes were resident."""
    readings = [(0, server.resident_bytes())]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=300) as client:
        clients = Clients(client, seed=0)
        for done in range(0, num_requests, READ_EVERY):
            number = min(READ_EVERY, num_requests - done)
            await together(clients, number)
            readings.append((done + number, server.resident_bytes()))
            print(f"{done + number} requests: {readings[-1][1] / 1e6:.0f} MB", flush=True)
    print("statuses:", ", ".join(f"{number} × {status}" for status, number in sorted(clients.statuses.items())))
    return readings


async def together(clients: Clients, number: int) -> None:
    left = iter(range(number))

    async def work() -> None:
        for _ in left:
            await clients.request()

    await asyncio.gather(*(work() for _ in range(CLIENTS)))


def verdict(readings: list[tuple[int, int]]) -> str:
    """Whether memory is what it was when caches were full."""
    last = readings[-1][0]
    warm = max(taken for number, taken in readings if number <= WARM_SHARE * last)
    growth = max(taken for _, taken in readings) / warm
    return f"{'flat' if growth <= MAX_GROWTH else 'grows'}: {growth:.3f} × what it is after {WARM_SHARE:.0%} of them"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="how many")
    parser.add_argument("--model", default="default", help="what is served")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder), "--model", asked.model) as server:
        print(f"0 requests: {server.resident_bytes() / 1e6:.0f} MB", flush=True)
        readings = asyncio.run(measure(server, asked.requests))
    print(verdict(readings))


if __name__ == "__main__":
    main()
