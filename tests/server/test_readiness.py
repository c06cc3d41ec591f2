"""`/readyz` tells which part is not ready, each by itself and several at once; the log tells when that changes."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from server.http.routes import health
from server.store import StoreError, StoreFull, StoreUnavailable

PARTS = {"engine": "ok", "server": "ok", "queue": "ok", "store": "ok"}


async def checks(client: httpx.AsyncClient) -> tuple[int, dict[str, str]]:
    """The status, and the checks that are not ok."""
    answers = [await client.get(path) for path in ("/readyz", "/health")]
    assert answers[0].json() == answers[1].json()
    assert {answer.status_code for answer in answers} == {answers[0].status_code}
    told = answers[0].json()
    assert told["status"] == ("ok" if answers[0].status_code == 200 else "unavailable")
    assert told["checks"].keys() == PARTS.keys()
    return answers[0].status_code, {name: check for name, check in told["checks"].items() if check != "ok"}


def break_store(client: Any, monkeypatch: pytest.MonkeyPatch, error: StoreError | None) -> None:
    """Have it raise, or with None not answer."""

    async def ping() -> None:
        if error is not None:
            raise error
        await asyncio.sleep(60)

    monkeypatch.setattr(client.core.store, "ping", ping)


async def stop_engine(client: Any) -> None:
    await asyncio.to_thread(client.services.decoder.stop)


async def test_all_parts_are_named_where_all_are_well(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json() == {"status": "ok", "checks": PARTS}


async def test_an_engine_that_has_ended(client: httpx.AsyncClient) -> None:
    await stop_engine(client)
    assert await checks(client) == (503, {"engine": "not running"})
    assert (await client.get("/livez")).status_code == 200


async def test_a_server_that_stops(client: httpx.AsyncClient) -> None:
    client.core.is_stopping.set()  # type: ignore[attr-defined]
    assert await checks(client) == (503, {"server": "stopping"})


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreFull("no room"), "full"),
        (StoreUnavailable("gone"), "unreachable"),
        (StoreError("odd"), "unreachable"),
        (None, "unreachable"),
    ],
)
async def test_a_store_in_trouble(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: StoreError | None, told: str
) -> None:
    monkeypatch.setattr(health, "PING_SECONDS", 0.05)
    break_store(client, monkeypatch, error)
    assert await checks(client) == (503, {"store": told})


async def test_several_at_once(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    break_store(client, monkeypatch, StoreFull("no room"))
    client.core.is_stopping.set()  # type: ignore[attr-defined]
    await stop_engine(client)
    monkeypatch.setattr(type(client.services.decoder), "is_full", property(lambda _: True))  # type: ignore[attr-defined]
    told = {"engine": "not running", "server": "stopping", "queue": "full", "store": "full"}
    assert await checks(client) == (503, told)


async def test_the_log_tells_of_changes_alone(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe comes every few seconds, and shows nobody more than its status."""
    with caplog.at_level(logging.WARNING, logger=health.logger.name):
        await checks(client)
        with monkeypatch.context() as broken:
            break_store(client, broken, StoreUnavailable("gone"))
            await checks(client)
            client.core.is_stopping.set()  # type: ignore[attr-defined]
            await checks(client)
        client.core.is_stopping.clear()  # type: ignore[attr-defined]
        await checks(client)
    said = [record.getMessage() for record in caplog.records if record.name == health.logger.name]
    assert said == ["not ready: store unreachable", "not ready: server stopping, store unreachable", "ready again"]
