"""What stands around every request: the limit of its body, its line in the log, its metrics."""

import asyncio
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from server.http.middleware.body_limit import BodyLimit
from server.http.middleware.request_log import RequestLog
from server.metrics import Metrics


def served(metrics: Metrics) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BodyLimit, max_bytes=10, seconds=60)
    app.add_middleware(RequestLog, metrics=metrics)

    @app.post("/size")
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    return app


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def client(metrics: Metrics) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(served(metrics)), base_url="http://server")


async def test_a_body_of_the_limit_passes_and_one_more_byte_does_not(client: httpx.AsyncClient) -> None:
    assert (await client.post("/size", content=b"x" * 10)).text == "10"
    refused = await client.post("/size", content=b"x" * 11)
    assert (refused.status_code, refused.json()["detail"]) == (413, "the request body is over the limit of 10 bytes")


async def test_a_body_is_counted_as_it_comes_whatever_its_header_says() -> None:
    """It is refused at the first byte over, before the rest was sent."""
    parts: list[Message] = [{"type": "http.request", "body": b"x" * 6, "more_body": True} for _ in range(3)]
    read: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            read.append(await receive())

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError

    with pytest.raises(Exception, match="over the limit of 10 bytes"):
        await BodyLimit(app, max_bytes=10, seconds=60)({"type": "http"}, receive, send)
    assert (len(read), len(parts)) == (1, 1)


async def test_a_body_that_stalls_is_given_up_and_an_answer_may_take_its_time() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await receive()

    async def stalls() -> Message:
        if parts:
            return parts.pop(0)
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError

    limit = BodyLimit(app, max_bytes=10, seconds=0.01)
    parts: list[Message] = [{"type": "http.request", "body": b"x", "more_body": True}]
    with pytest.raises(HTTPException) as given_up:
        await limit({"type": "http"}, stalls, send)
    assert given_up.value.status_code == 408
    assert "1 bytes of the request body came in 0.0 s; it may pause for 0.01 s" in given_up.value.detail
    parts = [{"type": "http.request", "body": b"x", "more_body": False}]
    await limit({"type": "http"}, stalls, send)


async def test_a_body_that_comes_a_byte_at_a_time_is_given_up() -> None:
    """Its pauses were short enough, and what had come of it was held as long as it pleased."""
    read: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            read.append(await receive())

    async def slow() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        raise AssertionError

    with pytest.raises(HTTPException, match="bytes of the request body came in 0") as given_up:
        async with asyncio.timeout(5):
            await BodyLimit(app, max_bytes=1000, seconds=0.1)({"type": "http"}, slow, send)
    assert (given_up.value.status_code, 2 <= len(read) <= 8) == (408, True)


async def test_every_request_has_its_line_and_its_figures(
    client: httpx.AsyncClient, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="server"):
        await client.post("/size", content=b"abc")
        await client.post("/size", content=b"x" * 11)
        await client.get("/secret/name")
        await client.get("/livez")
    said = [" ".join(record.getMessage().split()[:3]) for record in caplog.records if record.name.startswith("server")]
    # a path that is no endpoint is the client's own word, and probes are quiet
    assert said == ["POST /size 200", "POST /size 413", "GET unknown 404"]

    def count(**labels: Any) -> float:
        return metrics.registry.get_sample_value("autocompressor_requests_total", labels) or 0.0

    assert count(endpoint="/size", status="200") == count(endpoint="/size", status="413") == 1
    assert count(endpoint="unknown", status="404") == 1
