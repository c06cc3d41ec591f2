"""Clients in a process of their own: `python -m tests.chaos.load PLAN`, until its standard input ends.

Each document is absent, stored or, where a call that changes it got no answer, unknown. One that is stored is read by
any number of clients: each answer is compared with what an undisturbed server said, and 404, or being computed again,
is a loss. On standard output there is a line of JSON a second, and at the end the record of all.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.chaos import documents
from tests.chaos.documents import GREEDY, body_of

STORE_SECONDS = 1.9  # until a Redis that does not answer is asked again
MOST_SECONDS = 60.0  # without an answer
LOADING = "the model is being loaded"  # says a server that has only begun: it is as good as down
PAUSE_SECONDS = 0.1  # after a call that was refused or got no answer
MIXED = {
    "compress": 4,
    "again": 1,
    "generate": 4,
    "stream": 2,
    "export": 2,
    "segments": 1,
    "score": 1,
    "list": 1,
    "delete": 2,
    "leave": 1,
    "bad": 1,
}
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/generate", {"summary_ids": ["0" * 40], "prompt": "a"}),
    ("/generate", {"prompt": "a", "max_tokens": 0}),
    ("/compress", {"token_ids": [-1] * 1000}),
    ("/compress", {"text": ""}),
    ("/score", {"prompt": "a", "continuations": [""]}),
    ("/tokenize", {"text": "a", "unknown": 1}),
)


@dataclass(frozen=True)
class Plan:
    """What clients do.

    `refusals` are statuses that tell of the fault at hand; 429 and 503 have to say when to come back. `can_lose`:
    what was stored may be gone, as from a Redis that evicts. `is_stored`: all documents are there at the start.
    """

    url: str
    expected: str
    clients: int = 4
    kinds: dict[str, int] = field(default_factory=lambda: dict(MIXED))
    refusals: tuple[int, ...] = ()
    can_lose: bool = False
    is_stored: bool = False
    stream_tokens: int = 16
    seed: int = 0


class Clients:
    """Draw calls by their weights, and keep book of what is stored."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self._plan, self._client = plan, client
        self._random = random.Random(plan.seed)
        self._expected = documents.load(Path(plan.expected))
        numbers = range(1, len(self._expected))  # the first is the row's own
        self._stored = set(numbers) if plan.is_stored else set()
        self._absent = set() if plan.is_stored else set(numbers)
        self._readers: Counter[int] = Counter()
        self.statuses: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.unanswered: list[dict[str, Any]] = []
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self.is_over = False

    async def work(self) -> None:
        """One client: a call after another."""
        names, weights = list(self._plan.kinds), list(self._plan.kinds.values())
        while not self.is_over:
            (kind,) = self._random.choices(names, weights)
            call: Callable[[], Awaitable[None]] = getattr(self, kind)
            await call()

    def record(self) -> dict[str, Any]:
        return {
            "stored": sorted(self._stored),
            "statuses": self.statuses,
            "counts": self.counts,
            "faults": self.faults,
            "unanswered": self.unanswered,
            "seconds": self._seconds,
        }

    async def compress(self) -> None:
        """One that is absent, or that nobody knows of."""
        if not self._absent:
            await self.delete()
            return
        number = self._random.choice(sorted(self._absent))
        self._absent.discard(number)
        response = await self._send("compress", "POST", "/compress", json=body_of(number))
        if response is not None and response.is_success:
            self._stored.add(number)
            if response.json()["id"] != self._expected[number].id:
                self._fault(f"document {number} has another id")
        else:
            self._absent.add(number)

    async def delete(self) -> None:
        """One that nobody reads, where most are stored."""
        free = [number for number in sorted(self._stored) if not self._readers[number]]
        if not free or len(self._stored) < len(self._expected) / 2:
            await asyncio.sleep(0)
            return
        number = self._random.choice(free)
        self._stored.discard(number)
        started, path = time.monotonic(), f"/summaries/{self._expected[number].id}"
        response = await self._send("delete", "DELETE", path, fine=(404,))
        self._absent.add(number)
        if response is not None and response.status_code == 404:
            # the store asks again where no reply came, and so may find what it did itself
            if time.monotonic() - started < STORE_SECONDS:
                self._lost(number, "delete")
            else:
                self.counts["deletes told 404 after a lost reply"] += 1

    async def again(self) -> None:
        async with self._stored_one() as number:
            if number is None:
                return
            response = await self._send("again", "POST", "/compress", json=body_of(number))
            if response is not None and response.status_code == 201:
                self._lost(number, "compressed again")

    async def generate(self) -> None:
        async with self._stored_one() as number:
            if number is None:
                return
            body = {"summary_ids": [self._expected[number].id], **GREEDY}
            response = await self._read("generate", number, "POST", "/generate", json=body)
            if response is not None and response.json()["text"] != self._expected[number].answer:
                self._wrong(number, "answer")

    async def export(self) -> None:
        async with self._stored_one() as number:
            if number is None:
                return
            path, params = f"/summaries/{self._expected[number].id}", {"format": "safetensors"}
            response = await self._read("export", number, "GET", path, params=params)
            if response is not None and not self._expected[number].is_like(response.content):
                self._wrong(number, "vectors")

    async def segments(self) -> None:
        async with self._stored_one() as number:
            if number is not None:
                await self._read("segments", number, "GET", f"/summaries/{self._expected[number].id}/segments")

    async def score(self) -> None:
        async with self._stored_one() as number:
            if number is not None:
                body = {"summary_ids": [self._expected[number].id], "prompt": "Who?", "continuations": [" A", " one"]}
                await self._read("score", number, "POST", "/score", json=body)

    async def list(self) -> None:
        await self._send("list", "GET", "/summaries")

    async def bad(self) -> None:
        """One that is refused, by its own fault."""
        path, body = self._random.choice(BAD)
        response = await self._send("bad", "POST", path, json=body, fine=(400, 404, 413, 422))
        if response is not None and response.is_success:
            self._fault(f"{path} took {body}")

    async def stream(self) -> None:
        """A longer answer, to its end."""
        body = {"prompt": "On", "max_tokens": self._plan.stream_tokens, "temperature": 0, "ignore_eos": True}
        await self._streamed("stream", body, leaves_after=None)

    async def leave(self) -> None:
        """A stream whose client has enough after a few lines."""
        body = {"prompt": "On", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
        await self._streamed("leave", body, leaves_after=self._random.randint(0, 6))

    async def _streamed(self, kind: str, body: dict[str, Any], *, leaves_after: int | None) -> None:
        started, lines = time.monotonic(), []
        try:
            async with self._client.stream("POST", "/generate", json={**body, "stream": True}) as response:
                if response.is_success:
                    async for line in response.aiter_lines():
                        lines.append(line)
                        if leaves_after is not None and len(lines) > leaves_after:
                            break
                else:
                    await response.aread()
        except httpx.TransportError as error:
            await self._unanswered(kind, started, repr(error))
            return
        if _is_loading(response):
            await self._unanswered(kind, started, response.text)
            return
        await self._answered(kind, response, started)
        if response.is_success and leaves_after is None:
            failed = [line for line in lines if '"error"' in line]
            if failed:
                self.counts["streams that ended in an error"] += 1
                if 424 not in self._plan.refusals and 503 not in self._plan.refusals:
                    self._fault(f"a stream ended in {failed[0]}")
            if "data: [DONE]" not in lines:
                self._fault("a stream has no end")

    @asynccontextmanager
    async def _stored_one(self) -> Any:
        """A document that is not deleted while the body runs; None where nothing is stored yet."""
        if not self._stored:
            await asyncio.sleep(PAUSE_SECONDS)
            yield None
            return
        number = self._random.choice(sorted(self._stored))
        self._readers[number] += 1
        try:
            yield number
        finally:
            self._readers[number] -= 1

    async def _read(self, kind: str, number: int, method: str, path: str, **given: Any) -> httpx.Response | None:
        """What is said of a stored document where it is no refusal."""
        response = await self._send(kind, method, path, fine=(404,), **given)
        if response is not None and response.status_code == 404:
            self._lost(number, kind)
        return response if response is not None and response.is_success else None

    def _lost(self, number: int, how: str) -> None:
        self.counts["gone"] += 1
        if not self._plan.can_lose:
            self._fault(f"document {number} was acknowledged and is gone: {how}")
        elif how != "compressed again":
            self._stored.discard(number)
            self._absent.add(number)

    def _wrong(self, number: int, what: str) -> None:
        self.counts["wrong"] += 1
        self._fault(f"document {number} gives a wrong {what}")

    async def _send(
        self, kind: str, method: str, path: str, *, fine: tuple[int, ...] = (), **given: Any
    ) -> httpx.Response | None:
        started = time.monotonic()
        try:
            response = await self._client.request(method, path, **given)
        except httpx.TransportError as error:
            await self._unanswered(kind, started, repr(error))
            return None
        if _is_loading(response):
            await self._unanswered(kind, started, response.text)
            return None
        await self._answered(kind, response, started, fine)
        return response

    async def _answered(self, kind: str, response: httpx.Response, started: float, fine: tuple[int, ...] = ()) -> None:
        status = response.status_code
        self.statuses[f"{kind} {status}"] += 1
        if response.is_success:
            self._seconds[kind].append(time.monotonic() - started)
        elif status not in (*self._plan.refusals, *fine):
            self._fault(f"{kind} was answered {status}: {response.text[:200]}")
        elif status in (429, 503) and "retry-after" not in response.headers:
            self._fault(f"{kind} was answered {status} without Retry-After")
        if status in self._plan.refusals:
            await asyncio.sleep(PAUSE_SECONDS)

    async def _unanswered(self, kind: str, started: float, error: str) -> None:
        what = {"kind": kind, "started": started, "ended": time.monotonic(), "error": error}
        self.unanswered.append(what)
        await asyncio.sleep(PAUSE_SECONDS)

    def _fault(self, text: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < 20:
            self.faults.append(text)


def _is_loading(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE and LOADING in response.text


async def run(plan: Plan) -> dict[str, Any]:
    """Have clients work until standard input ends; what came of it."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=plan.url, timeout=MOST_SECONDS, limits=limits) as client:
        clients = Clients(plan, client)
        tell = asyncio.create_task(_tell(clients))
        workers = [asyncio.create_task(clients.work()) for _ in range(plan.clients)]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait({ended, *workers}, return_when=asyncio.FIRST_COMPLETED)
        clients.is_over = True
        await asyncio.gather(*workers)
        tell.cancel()
        return clients.record()


async def _tell(clients: Clients) -> None:
    while True:
        print(json.dumps({"answered": clients.statuses.total(), "unanswered": len(clients.unanswered)}), flush=True)
        await asyncio.sleep(0.5)


def as_argument(plan: Plan) -> str:
    return json.dumps(asdict(plan))


if __name__ == "__main__":
    print(json.dumps({"record": asyncio.run(run(Plan(**json.loads(sys.argv[1]))))}), flush=True)
