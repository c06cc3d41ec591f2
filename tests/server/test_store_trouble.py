"""A store in trouble: whoever runs the server reads why, now and then, and no secret with it."""

import logging
from pathlib import Path

import httpx
import pytest
import redis

from server.core.documents import store_calls
from server.core.documents.store_calls import StoreCalls
from server.core.tenant import Tenant
from server.errors import ServiceError
from server.metrics import Metrics
from server.store import Entry, StoreError, StoreFull, StoreUnavailable
from tests.redis_server import running_redis
from tests.server.conftest import Serve


def store_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "the store failed" in record.getMessage()]


@pytest.mark.redis
async def test_a_wrong_password_is_logged_once_in_a_while_and_without_it(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client heard 503, and nobody could read anywhere that Redis said NOAUTH."""
    with running_redis(tmp_path) as url:
        with redis.Redis.from_url(url) as other:
            other.config_set("requirepass", "right-word")
        async with serve(store=url.replace("redis://", "redis://:wrong-word@")) as client:
            for _ in range(5):
                assert (await client.get("/summaries")).status_code == 503
            ready = await client.get("/readyz")
    assert ready.json()["checks"]["store"] == "unreachable"
    listed = [line for line in store_lines(caplog) if "failed to list" in line]
    assert len(listed) == 1
    assert "password" in listed[0]
    assert "wrong-word" not in caplog.text


async def test_a_damaged_record_is_named_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as client:
        made = (await client.post("/compress", json={"text": "a text " * 40})).json()
        stored = await client.services.summaries.of(Tenant()).get(made["id"], param="id")  # type: ignore[attr-defined]
        key = f"segment:{stored.manifest.segments[1]}"
        await client.core.store.space(Tenant().account).put_many([Entry(key, b"junk")])  # type: ignore[attr-defined]
        asked = {"summary_ids": [made["id"]], "prompt": "Who?", "max_tokens": 2}
        with caplog.at_level(logging.WARNING):
            assert (await client.post("/generate", json=asked)).status_code == 404
    (line,) = store_lines(caplog)
    assert f"{key} is not a record of summary vectors" in line


async def test_the_log_of_failures_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = StoreCalls(Metrics())

    async def fail(operation: str, error: StoreError) -> None:
        with pytest.raises(ServiceError):
            async with calls(operation):
                raise error

    for _ in range(1000):
        await fail("put", StoreFull("no room"))
    await fail("get", StoreUnavailable("gone"))
    assert len(store_lines(caplog)) == 2
    monkeypatch.setattr(store_calls, "SECONDS_BETWEEN", 0.0)
    await fail("put", StoreFull("no room"))
    assert "999 more" in store_lines(caplog)[-1]


async def test_damaged_segments_are_told_of_once_in_a_while(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Each had a line of its own: of a long document on a failing disk thousands, with every call again."""
    body = {"text": "a text of many segments " * 20}
    async with serve() as client:
        made = (await client.post("/compress", json=body)).json()
        stored = await client.services.summaries.of(Tenant()).get(made["id"], param="id")  # type: ignore[attr-defined]
        junk = [Entry(f"segment:{key}", b"junk") for key in stored.manifest.segments]
        assert len(junk) > 5
        await client.core.store.space(Tenant().account).put_many(junk)  # type: ignore[attr-defined]
        with caplog.at_level(logging.WARNING):
            again = await client.post("/compress", json={"text": body["text"] + "and more"})
            assert again.json()["cached_segments"] == 0
    (line,) = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert f"segment {stored.manifest.segments[0]} is damaged and is computed anew" in line


async def test_readiness_tells_of_a_full_store(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It said ok while every document was refused."""

    async def ping() -> None:
        raise StoreFull("the store's disk is full")

    monkeypatch.setattr(client.core.store, "ping", ping)  # type: ignore[attr-defined]
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["store"]) == (503, "full")
