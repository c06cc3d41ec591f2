"""Vectors kept as int8: rounded as they are made, so that what is answered from is what is stored."""

from pathlib import Path
from typing import Any

import httpx
import torch

from model.int8 import rounded
from server.core.tenant import Tenant
from tests.server.conftest import Serve

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 4


async def compress(client: httpx.AsyncClient, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/compress", json={"text": text, **fields})
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


async def scores(client: httpx.AsyncClient, summary_id: str) -> list[Any]:
    asked = {"summary_ids": [summary_id], "prompt": "Who?", "continuations": [" The keeper.", " Ships"]}
    return list((await client.post("/score", json=asked)).json()["scores"])


async def exported(client: httpx.AsyncClient, summary_id: str) -> bytes:
    return (await client.get(f"/summaries/{summary_id}", params={"format": "safetensors"})).content


async def vectors(client: Any, summary_id: str) -> torch.Tensor:
    summaries = client.services.summaries.of(Tenant())
    found: torch.Tensor = await summaries.vectors(await summaries.get(summary_id, param="id"))
    return found


async def record_sizes(client: Any, summary_id: str) -> list[int]:
    summaries = client.services.summaries.of(Tenant())
    keys = (await summaries.get(summary_id, param="id")).manifest.segments
    values = await client.core.store.space(Tenant().account).get_many([f"segment:{key}" for key in keys])
    return [len(value) for value in values]


async def test_a_segment_is_made_after_what_is_stored_of_those_before_it(serve: Serve, tmp_path: Path) -> None:
    """Gone on with after a restart, from the store, as in one go: both but for the noise of float32."""
    async with serve(stored_vectors="int8") as client:
        await compress(client, TEXT[:200])
    async with serve(stored_vectors="int8") as client:
        resumed = await compress(client)
        assert 0 < resumed["cached_segments"] < resumed["segments"]
        by_resumed = await vectors(client, resumed["id"])
        assert torch.equal(rounded(by_resumed), by_resumed)
    async with serve(stored_vectors="int8", store=f"sqlite:{tmp_path}/other.sqlite3") as client:
        whole = await compress(client)
        assert whole["id"] == resumed["id"]
        # components that the noise moved by a step of int8 are few
        assert (await vectors(client, whole["id"]) - by_resumed).abs().mean() < 1e-4


async def test_both_ways_are_in_one_store_and_have_ids_of_their_own(serve: Serve, tmp_path: Path) -> None:
    other_store = f"sqlite:{tmp_path}/other.sqlite3"
    async with serve(stored_vectors="int8", export_secret="a word") as client:
        small = await compress(client)
        small_vectors, small_scores = await vectors(client, small["id"]), await scores(client, small["id"])
        small_end = await compress(client, "No ship came.", parent=small["id"])
    async with serve(export_secret="a word") as client:
        assert await scores(client, small["id"]) == small_scores
        plain = await compress(client)
        assert (plain["cached_segments"], plain["segments"]) == (0, small["segments"])
        assert not torch.equal(await vectors(client, plain["id"]), small_vectors)
        assert max(await record_sizes(client, small["id"])) < min(await record_sizes(client, plain["id"]))
        # what is appended to one id has another id by each way
        assert (await compress(client, "No ship came.", parent=small["id"]))["id"] != small_end["id"]
        data = await exported(client, plain["id"])
        plain_vectors = await vectors(client, plain["id"])
        assert len((await client.get("/summaries")).json()["data"]) == 4
    async with serve(stored_vectors="int8", store=other_store, export_secret="a word") as client:
        assert (await client.put(f"/summaries/{plain['id']}", content=data)).status_code == 201
        assert torch.equal(await vectors(client, plain["id"]), plain_vectors)  # an id keeps its vectors, not rounded
