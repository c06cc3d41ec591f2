"""How long the largest bodies hold a running server's event loop: the slowest answer of /livez meanwhile.

python -m benchmarks.stall http://127.0.0.1:8000
"""

import argparse
import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any

import httpx

IDS = [number % 40_000 for number in range(2_300_000)]
SHORT_IDS = [number % 10 for number in range(5_500_000)]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "token ids, the last of them unknown": ("/compress", {"token_ids": [*IDS, 10**6]}),
    "token ids for a job": ("/jobs/compress", {"token_ids": [*IDS, 10**6]}),
    "more token ids than a document may have": ("/compress", {"token_ids": SHORT_IDS}),
    "negative token ids": ("/compress", {"token_ids": [-1] * 4_000_000}),
    "texts for token ids": ("/compress", {"token_ids": ["x"] * 3_000_000}),
    "lists for token ids": ("/compress", {"token_ids": [[]] * 4_000_000}),
    "objects for documents": ("/compress", {"documents": [{}] * 4_000_000}),
    "empty stop strings": ("/generate", {"prompt": "a", "stop": [""] * 4_000_000}),
    "unknown fields": ("/compress", {f"field {number}": 1 for number in range(700_000)}),
    "metadata": ("/compress", {"text": "a", "metadata": {f"name {number}": "" for number in range(700_000)}}),
    "escaped characters": ("/tokenize", {"text": "東京" * 1_300_000}),
    "a text": ("/jobs/compress", {"text": "The keeper wrote one line a day. " * 480_000}),
    "texts": ("/jobs/compress", {"documents": [{"text": "The keeper wrote one line a day. " * 480}] * 1000}),
}
ENCODED = {"identity": lambda data: data, "gzip": gzip.compress}


async def measure(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for name, (path, body) in BODIES.items():
            data = json.dumps(body).encode()
            for encoding, encode in ENCODED.items():
                sent = encode(data)
                headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
                with watching(url) as worst:
                    response = await client.post(path, content=sent, headers=headers)
                milliseconds = 1000 * worst[0]
                size = f"{len(data) / 2**20:.1f} MiB as {encoding}"
                print(f"{name}: {size}, {response.status_code}, /livez {milliseconds:.0f} ms at worst", flush=True)
                if response.status_code == 202:
                    await client.delete(f"/jobs/{response.json()['id']}")


@contextmanager
def watching(url: str) -> Iterator[list[float]]:
    """The seconds of the slowest answer of /livez, there at the end; asked by a process that does nothing else."""
    here, there = Pipe()
    watcher = Process(target=watch, args=(url, there))
    watcher.start()
    here.recv()
    time.sleep(0.2)
    worst: list[float] = []
    try:
        yield worst
    finally:
        time.sleep(0.2)
        here.send(None)
        worst.append(here.recv())
        watcher.join()


def watch(url: str, other: Connection) -> None:
    slowest = 0.0
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/livez")
        other.send(None)
        while not other.poll():
            started = time.perf_counter()
            client.get("/livez")
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.001)
    other.send(slowest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="where the server answers")
    asyncio.run(measure(parser.parse_args().url))
