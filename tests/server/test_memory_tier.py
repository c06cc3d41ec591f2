"""Vectors in memory before the store: never of a summary that is gone, whoever deleted it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.compressors import SegmentSummary
from server.core.documents.memory_tier import ENTRY_BYTES, MemoryTier
from server.metrics import Metrics
from server.store.metered import MeteredStore
from tests.redis_server import running_redis
from tests.server.conftest import Serve

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 4


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        yield f"sqlite:{tmp_path / 'shared.sqlite3'}"
    else:
        with running_redis(tmp_path) as url:
            yield url


async def compress(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    return dict((await client.post("/compress", json={"text": TEXT, **fields})).json())


async def score(client: httpx.AsyncClient, summary_id: str) -> httpx.Response:
    asked = {"summary_ids": [summary_id], "prompt": "Who?", "continuations": [" The keeper."]}
    return await client.post("/score", json=asked)


def lookups(client: Any, result: str) -> float:
    return float(client.core.metrics.tier_lookups.labels(result=result)._value.get())


class Watched:
    """Keys that a server read from its store."""

    def __init__(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        whole = MeteredStore.get_many

        async def watched(store: MeteredStore, keys: list[str]) -> Any:
            self.keys += keys
            return await whole(store, keys)

        monkeypatch.setattr(MeteredStore, "get_many", watched)

    def kinds(self) -> set[str]:
        """Since the last time this was asked."""
        kinds = {key.partition(":")[0] for key in self.keys}
        self.keys.clear()
        return kinds


async def test_vectors_are_read_from_the_store_once_and_the_manifest_each_time(
    serve: Serve, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(store=store_url) as client:
        made = await compress(client)
        watched = Watched(client, monkeypatch)
        first = await score(client, made["id"])
        assert watched.kinds() == {"manifest", "segment"}
        again = await score(client, made["id"])
        assert watched.kinds() == {"manifest"}
        assert again.json()["scores"] == first.json()["scores"]
        assert (lookups(client, "miss"), lookups(client, "hit")) == (made["segments"], made["segments"])


async def test_without_memory_all_is_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"memory_tier_bytes": 0}, {"imports": "any"}):
        async with serve(**settings) as client:
            made = await compress(client)
            watched = Watched(client, monkeypatch)
            for _ in range(2):
                await score(client, made["id"])
                assert watched.kinds() == {"manifest", "segment"}


async def test_what_another_replica_deleted_is_gone(serve: Serve, store_url: str) -> None:
    async with serve(store=store_url) as one, serve(store=store_url) as other:
        made = await compress(one)
        before = await score(one, made["id"])
        assert (await other.delete(f"/summaries/{made['id']}")).status_code == 200
        assert (await score(one, made["id"])).status_code == 404
        assert (await one.get(f"/summaries/{made['id']}/segments")).status_code == 404
        # that it is in memory does not make it stored
        again = await compress(other)
        assert (again["id"], again["cached_segments"]) == (made["id"], 0)
        assert (await score(one, made["id"])).json()["scores"] == before.json()["scores"]


async def test_a_deleted_document_is_computed_again_where_its_vectors_are_in_memory(serve: Serve) -> None:
    async with serve() as client:
        made = await compress(client)
        await score(client, made["id"])
        await client.delete(f"/summaries/{made['id']}")
        assert (await compress(client))["cached_segments"] == 0
        assert (await score(client, made["id"])).status_code == 200


async def test_what_expired_is_gone(serve: Serve, store_url: str) -> None:
    async with serve(store=store_url) as client:
        made = await compress(client, ttl_seconds=1)
        assert (await score(client, made["id"])).status_code == 200
        await asyncio.sleep(1.1)
        assert (await score(client, made["id"])).status_code == 404


def summary(num_vectors: int, fill: float = 0.0) -> SegmentSummary:
    return SegmentSummary(torch.full((num_vectors, 8), fill), torch.arange(num_vectors))


def test_memory_is_bounded_and_the_least_recent_goes_first() -> None:
    metrics = Metrics()
    one = ENTRY_BYTES + 4 * 8 * 4 + 4 * 8
    tier = MemoryTier(3 * one + 10, metrics)
    for key in "abc":
        tier.keep(key, summary(4))
    assert tier.get("a") is not None
    tier.keep("d", summary(4))
    assert [key for key in "abcd" if tier.get(key) is not None] == ["a", "c", "d"]
    assert metrics.tier_bytes._value.get() == 3 * one
    tier.keep("e", summary(4000))  # larger than all of it: nothing goes for what cannot stay
    assert [key for key in "acde" if tier.get(key) is not None] == ["a", "c", "d"]
    tier.keep("a", summary(4, 1.0))
    kept = tier.get("a")
    assert kept is not None
    assert kept.vectors.mean() == 1.0
