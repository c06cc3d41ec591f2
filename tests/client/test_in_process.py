"""The transport of `--local`: an answer is handed on as it is made, and a client that leaves is noticed."""

import asyncio

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from server.cli.in_process import StreamingTransport

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]}


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_a_piece_arrives_before_the_next_is_made() -> None:
    first_was_read = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = await receive()
        await send(START)
        await send(piece(request["body"] + scope["query_string"]))
        await first_was_read.wait()
        await send(piece(b"end", more=False))

    async with (
        httpx.AsyncClient(transport=StreamingTransport(app), base_url="http://in-process") as client,
        client.stream("POST", "/path?a=b", content=b"body ") as response,
    ):
        assert response.headers["x-a"] == "b"
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"body a=b"
        first_was_read.set()
        assert await anext(pieces) == b"end"


async def test_an_application_hears_that_its_client_has_left() -> None:
    heard: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        heard.append((await receive())["type"])
        try:
            await send(piece(b"too late"))
        except OSError as error:
            heard.append(str(error))
            raise

    async with httpx.AsyncClient(transport=StreamingTransport(app), base_url="http://in-process") as client:
        async with client.stream("GET", "/"):
            assert heard == []
        assert heard == ["http.disconnect", "the client has left"]


@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_answer_that_is_not_whole_is_an_error(has_begun: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if has_begun:
            await send(START)
        raise RuntimeError

    async with httpx.AsyncClient(transport=StreamingTransport(app), base_url="http://in-process") as client:
        with pytest.raises(httpx.RemoteProtocolError, match="without a whole answer"):
            await client.get("/")
