"""Where `/compress` of a stored document spends its time, by whose code it is; a part of `benchmarks.profile`."""

import asyncio
import cProfile
import json
import pstats
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.subject import Subject
from server.http.app import create_app


@dataclass(frozen=True)
class Profile:
    """A step's time, in milliseconds.

    Attributes:
        step: what it is. wall: all of it, without the profiler. kinds: how that divides, what no operator took last.
        calls: operators that were called, by kind.
    """

    step: str
    wall: float
    kinds: dict[str, float]
    calls: dict[str, int]


def lookup(checkpoint: Path, folder: Path, repeats: int) -> Profile:
    """`/compress` of a document that is stored, from the application's first byte to its last, by whose code it is."""
    body = json.dumps({"text": (machine.ROOT / "examples" / "chapter.txt").read_text()}).encode()
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": "/compress", "raw_path": b"/compress", "query_string": b"", "headers": headers, "root_path": ""}
    with Subject(checkpoint, folder / "lookup.sqlite3") as subject:
        statuses: list[int] = []

        async def application() -> Any:
            return create_app(subject.core)  # on the loop, where it begins to look for jobs

        app = subject.run(application())

        def receiving() -> Callable[[], Awaitable[dict[str, Any]]]:
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive() -> dict[str, Any]:
                for message in messages:
                    return message
                await asyncio.Event().wait()  # a client that stays
                raise AssertionError

            return receive

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def ask(count: int) -> None:
            for _ in range(count):
                await app(dict(scope), receiving(), send)

        subject.run(ask(20))
        walls = []
        for _ in range(repeats):
            started = time.perf_counter()
            subject.run(ask(1))
            walls.append(1000 * (time.perf_counter() - started))
        profiler = cProfile.Profile()
        profiler.enable()
        subject.run(ask(repeats))
        profiler.disable()
    assert set(statuses[1:]) == {200}, f"a stored document was answered {statuses[-1]}"
    spent, calls = Counter[str](), Counter[str]()
    for (path, _, name), (_, count, own, *_) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        part = _part(path, name)
        spent[part] += own
        calls[part] += count
    wall, whole = min(walls), sum(spent.values())  # cProfile makes calls slower: its shares of what it takes without
    shares = {part: wall * own / whole for part, own in spent.most_common()}
    return Profile("a stored lookup", wall, shares, {part: calls[part] // repeats for part in shares})


def _part(path: str, name: str) -> str:
    for package in ("http", "core", "store"):
        if f"/server/{package}/" in path:
            return f"server/{package}"
    if "/server/" in path:
        return "server, the rest"
    if any(f"/{package}/" in path for package in ("fastapi", "starlette", "pydantic", "pydantic_core")):
        return "FastAPI, Starlette, pydantic"
    if "poll" in name:
        return "waiting for threads: SQLite, tokenising"
    if "asyncio" in path or "_asyncio" in name:
        return "asyncio"
    return "the standard library and others"
