"""How long the largest bodies hold a running server's event loop: the slowest answer of /livez meanwhile.

python -m benchmarks.stall http://127.0.0.1:8000
"""

import argparse
import asyncio
import json
import time
from typing import Any

import httpx

IDS = [number % 40_000 for number in range(2_300_000)]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "token ids, the last of them unknown": ("/compress", {"token_ids": [*IDS, 10**6]}),
    "negative token ids": ("/compress", {"token_ids": [-1] * 4_000_000}),
    "texts for token ids": ("/compress", {"token_ids": ["x"] * 3_000_000}),
    "empty stop strings": ("/generate", {"prompt": "a", "stop": [""] * 4_000_000}),
}


async def measure(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for name, (path, body) in BODIES.items():
            data = json.dumps(body).encode()
            watching = asyncio.create_task(slowest_answer(url, stop := asyncio.Event()))
            await asyncio.sleep(0.2)
            response = await client.post(path, content=data, headers={"Content-Type": "application/json"})
            stop.set()
            milliseconds = 1000 * await watching
            print(f"{name}: {len(data) / 2**20:.1f} MiB, {response.status_code}, /livez {milliseconds:.0f} ms at worst")


async def slowest_answer(url: str, stop: asyncio.Event) -> float:
    """Seconds."""
    slowest = 0.0
    async with httpx.AsyncClient(base_url=url) as client:
        while not stop.is_set():
            started = time.perf_counter()
            await client.get("/livez")
            slowest = max(slowest, time.perf_counter() - started)
    return slowest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="where the server answers")
    asyncio.run(measure(parser.parse_args().url))
