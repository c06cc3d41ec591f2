"""Headers over a real socket: slow ones and endless ones are cut, others are not."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.http.connection import Connection
from tests.http.listening import listening

SECONDS = 0.3
REQUEST = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


class Quick(Connection):
    header_seconds = SECONDS
    max_header_bytes = 10_000


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/slow")
    async def slow() -> PlainTextResponse:
        await asyncio.sleep(3 * SECONDS)
        return PlainTextResponse("slow")

    @app.post("/size")
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    @app.post("/refused")
    async def refused() -> PlainTextResponse:
        return PlainTextResponse("refused", 403)

    async with listening(app, http=Quick, timeout_keep_alive=2) as opened:
        yield opened


async def dribbled(port: int, *parts: bytes, pause: float = SECONDS / 3) -> tuple[bytes, float]:
    """What came back until the server closed, and the seconds till then; parts are sent with pauses, the last again."""
    started = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        while True:
            writer.write(parts[-1])
            await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(2**16):
                received += data
    except ConnectionError:
        pass  # what was sent after the close
    finally:
        sending.cancel()
        writer.close()
    return bytes(received), asyncio.get_running_loop().time() - started


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET /livez HTTP/1.1\r\n", b"A: b\r\n"),
        (b"GET /", b"a"),
        (b"GET /livez HTTP/1.1\r\nA: ", b"b"),
        (REQUEST, b"GET /livez HTTP/1.1\r\n", b"A: b\r\n"),
    ],
)
async def test_headers_that_come_slowly_are_cut(port: int, parts: tuple[bytes, ...]) -> None:
    received, seconds = await dribbled(port, *parts)
    assert received.startswith(b"HTTP/1.1 200" if parts[0] == REQUEST else b"HTTP/1.1 408")
    assert (received.count(b"HTTP/1.1 408"), seconds < 4 * SECONDS + 1) == (1, True)


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
    received, seconds = await dribbled(port, b"\r\n")  # nor where it says nothing at length
    assert (received, seconds < SECONDS + 1) == (b"", True)


async def test_the_rest_of_a_refused_body_may_not_come_for_ever(port: int) -> None:
    head = b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    received, seconds = await dribbled(port, head, b"x")
    assert (received.startswith(b"HTTP/1.1 403"), seconds < SECONDS + 1.5) == (True, True)


@pytest.mark.parametrize(
    "parts",
    [
        (REQUEST[:-2] + b"A: " + b"b" * 20_000 + b"\r\n\r\n", b""),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 100),
        (b"GET /livez HTTP/1.1\r\nA: ", b"b" * 1000),
        (b"GET /livez?", b"b" * 1000),
        (b"\r\n" * 1000, b"\r\n" * 1000),
        (b"POST /size HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nA: ", b"b" * 1000),
    ],
)
async def test_headers_without_end_are_cut(port: int, parts: tuple[bytes, ...]) -> None:
    received, _ = await dribbled(port, *parts, pause=0.001)
    assert received.startswith(b"HTTP/1.1 431")


async def test_slow_answers_large_bodies_and_pauses_between_requests_are_no_fault(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in await reader.readline()
        await reader.readuntil(b"slow")
        await asyncio.sleep(2 * SECONDS)
        writer.write(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(SECONDS / 2)
            writer.write(b"x" * 250_000)
        assert b"200" in await reader.readline()
        await reader.readuntil(b"1000000")
        writer.write(REQUEST)
        assert b"200" in await reader.readline()
        await reader.readuntil(b"ok")
        assert await reader.read() == b""  # uvicorn's keep-alive timeout
        writer.close()


async def test_connections_are_so_many_at_most_websockets_among_them() -> None:
    """A handshake was taken however many there were."""
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.websocket("/socket")
    async def socket(opened: WebSocket) -> None:
        await opened.accept()
        async for text in opened.iter_text():
            await opened.send_text(text)

    config = {"http": Connection, "ws": "websockets-sansio", "limit_concurrency": 3}
    async with listening(app, **config) as port:

        async def status() -> int:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{port}/livez")).status_code

        address = f"ws://127.0.0.1:{port}/socket"
        async with connect(address) as first:
            assert await status() == 200
            async with connect(address) as second:
                assert await status() == 503
                with pytest.raises(InvalidStatus) as refused:
                    await connect(address)
                assert refused.value.response.status_code == 503
                for each in (first, second):
                    await each.send("still here")
                    assert await each.recv() == "still here"
            for _ in range(200):
                if await status() == 200:
                    break
                await asyncio.sleep(0.01)
            async with connect(address):
                pass
