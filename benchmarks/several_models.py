"""What a second adapter on one base takes of memory, and what it costs to run adapters beside their base.

    python -m benchmarks.several_models

VmRSS of servers of the default model when they are ready, and again when each model has answered: alone, with a second
checkpoint of its base, with two. The others are the default's files with other numbers. Then how long the same answers
take with `--adapters beside`, over `merged`, the two in turn. Linux; the default's base has to be there.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import load_file, save_file

from benchmarks.live import LiveServer
from server.core.checkpoints import BUNDLED

OTHERS = ("legal", "notes")
TEXT = "The lighthouse keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 40
NEW_TOKENS = 48
ROUNDS = 5
AT_ONCE = (1, 8)


def write_other(directory: Path, *, seed: int) -> None:
    """A checkpoint as the default, whose adapter and bridge are others."""
    shutil.copytree(BUNDLED / "default", directory)
    generator = torch.Generator().manual_seed(seed)
    for file in directory.rglob("*.safetensors"):
        weights = load_file(file)
        for weight in weights.values():
            weight.mul_(1 + 0.1 * torch.rand(weight.shape, generator=generator).to(weight.dtype))
        save_file(weights, file, metadata={"format": "pt"})


def client_of(server: LiveServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=300)


async def answer(client: httpx.AsyncClient, model: str, number: int = 1) -> float:
    """Seconds for so many answers at once that are conditioned on a document."""
    made = (await client.post("/compress", json={"model": model, "text": TEXT})).raise_for_status().json()
    body: dict[str, Any] = {"model": model, "summary_ids": [made["id"]], "prompt": "The keeper", "temperature": 0}
    body |= {"max_tokens": NEW_TOKENS, "ignore_eos": True}
    started = time.perf_counter()
    for done in await asyncio.gather(*(client.post("/generate", json=body) for _ in range(number))):
        done.raise_for_status()
    return time.perf_counter() - started


async def used(server: LiveServer) -> None:
    """Have each model of a server read and write once."""
    async with client_of(server) as client:
        for card in (await client.get("/v1/models")).json()["data"]:
            await answer(client, card["id"])


def memory(folder: Path, *flags: str) -> tuple[float, float]:
    """Of a server with these flags, megabytes when it is ready and when it has answered."""
    with LiveServer(folder, *flags) as server:
        ready = server.resident_bytes() / 1e6
        asyncio.run(used(server))
        return ready, server.resident_bytes() / 1e6


async def ratios(one: LiveServer, other: LiveServer) -> dict[int, float]:
    """Seconds of the one over the other's, by how many answers at once: of rounds that alternate, the median."""
    found = {}
    async with client_of(one) as first, client_of(other) as second:
        for number in AT_ONCE:
            seconds = [
                [await answer(client, "autocompressor-default", number) for client in (first, second)]
                for _ in range(1 + ROUNDS)
            ]
            found[number] = statistics.median(own / theirs for own, theirs in seconds[1:])
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, other in enumerate(OTHERS):
            write_other(folder / other, seed=seed)
        for how in ("merged", "beside"):
            for number in range(len(OTHERS) + 1):
                beside = ",".join(f"{other}={folder / other}" for other in OTHERS[:number])
                ready, after = memory(folder, "--adapters", how, "--other-models", beside)
                print(f"{how}, {1 + number} models: {ready:.0f} MB ready, {after:.0f} once all answered", flush=True)
        with LiveServer(folder, "--adapters", "beside") as one, LiveServer(folder, "--adapters", "merged") as other:
            for number, ratio in asyncio.run(ratios(one, other)).items():
                print(f"{number} answers at once, beside over merged: {ratio:.2f} of the time", flush=True)


if __name__ == "__main__":
    main()
