"""A Redis that evicts: a document whose segments it removed is computed again, and those who run it are warned."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.redis_server import running_redis
from tests.server.conftest import Serve

pytestmark = pytest.mark.redis

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with running_redis(tmp_path) as url:
        yield url


async def test_what_was_evicted_is_computed_again(serve: Serve, redis_url: str) -> None:
    """`/compress` answered that all was cached, and the id stayed 404 for good."""
    async with serve(store=redis_url) as client:
        body = {"text": DOCUMENT, "metadata": {"title": "Keeper"}, "keep_text": True}
        made = (await client.post("/compress", json=body)).json()
        with redis.Redis.from_url(redis_url) as evicting:
            for kind in ("segment", "text"):
                names = sorted(evicting.keys(f"autocompressor:2:*:value:{kind}:*"))
                evicting.delete(names[0], names[-1])
        again = await client.post("/compress", json={"text": DOCUMENT})
        assert (again.status_code, again.json()["id"]) == (201, made["id"])
        assert again.json()["cached_segments"] < made["segments"]
        assert again.json()["metadata"] == {"title": "Keeper"}
        assert (await client.get(f"/summaries/{made['id']}/segments")).status_code == 200
        asked = {"summary_ids": [made["id"]], "prompt": "Who?", "max_tokens": 2}
        assert (await client.post("/generate", json=asked)).status_code == 200
        whole = await client.post("/compress", json={"text": DOCUMENT})
        assert (whole.status_code, whole.json()["cached_segments"]) == (200, made["segments"])


async def test_a_policy_that_evicts_is_warned_of_at_the_start(
    serve: Serve, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with caplog.at_level(logging.WARNING):
        async with serve(store=redis_url):
            pass
    assert "maxmemory-policy allkeys-lru" in caplog.text
