"""Bodies of many requests at a time, over real sockets: bounded by their bytes, together."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from server.http.answers.waiting import unless_disconnected
from server.http.envelope import add_error_handlers
from server.http.middleware.bodies import Bodies
from server.http.middleware.decompression import Decompression
from server.metrics import Metrics
from tests.http.listening import eventually, listening

LIMIT = 4_000_000  # three quarters for large ones
LARGE = b"x" * 1_000_000


class Server:
    """One that answers a body when `is_open`."""

    def __init__(self) -> None:
        self.metrics, self.is_open = Metrics(), asyncio.Event()
        self.app = FastAPI()
        self.app.add_middleware(Bodies, max_bytes=LIMIT, metrics=self.metrics)
        self.app.add_middleware(Decompression, max_bytes=LIMIT)
        add_error_handlers(self.app)

        @self.app.post("/wait")
        async def wait(request: Request) -> PlainTextResponse:
            size = len(await request.body())
            await unless_disconnected(request, self.is_open.wait())
            return PlainTextResponse(str(size))

        @self.app.get("/livez")
        async def livez() -> PlainTextResponse:
            return PlainTextResponse("ok")

    @property
    def held(self) -> float:
        return self.metrics.registry.get_sample_value("autocompressor_body_bytes") or 0.0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with listening(self.app) as port:
            self.port = port
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                yield client


@pytest.fixture
def server() -> Server:
    return Server()


async def fill(server: Server, client: httpx.AsyncClient, number: int = 3) -> list["asyncio.Task[httpx.Response]"]:
    waiting = [asyncio.create_task(client.post("/wait", content=LARGE)) for _ in range(number)]
    await eventually(lambda: server.held == number * len(LARGE))
    return waiting


async def test_large_bodies_are_refused_where_others_hold_the_bytes_and_small_ones_are_not(server: Server) -> None:
    async with server.client() as client:
        waiting = await fill(server, client)
        refused = await client.post("/wait", content=LARGE)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
        assert "over the limit of 3000000" in error["message"]
        small = asyncio.create_task(client.post("/wait", content=b"a question"))
        await eventually(lambda: server.held == 3 * len(LARGE) + len(b"a question"))
        assert (await client.get("/livez")).text == "ok"
        server.is_open.set()
        assert [(await each).text for each in waiting] == [str(len(LARGE))] * 3
        assert (await small).text == "10"
        assert server.held == 0
        assert (await client.post("/wait", content=LARGE)).status_code == 200


async def test_what_is_decoded_counts(server: Server) -> None:
    async with server.client() as client:
        await fill(server, client, 2)
        bomb = gzip.compress(b"x" * 2_000_000)
        refused = await client.post("/wait", content=bomb, headers={"Content-Encoding": "gzip"})
        assert (len(bomb) < 10_000, refused.status_code) == (True, 429)
        assert server.held == 2 * len(LARGE)
        server.is_open.set()


@pytest.mark.parametrize("sent", [len(LARGE), len(LARGE) // 2])
async def test_a_client_that_leaves_frees_its_bytes(server: Server, sent: int) -> None:
    """Whether it left while the server was at work, or half way through its body."""
    async with server.client():
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE) + LARGE[:sent])
        await eventually(lambda: server.held == sent)
        writer.close()
        await eventually(lambda: server.held == 0)


async def test_many_small_bodies_are_bounded_too(server: Server) -> None:
    async with server.client() as client:
        await fill(server, client)
        small = [asyncio.create_task(client.post("/wait", content=b"x" * 60_000)) for _ in range(20)]
        await eventually(lambda: any(each.done() for each in small))
        assert server.held <= LIMIT
        server.is_open.set()
        statuses = [(await each).status_code for each in small]
        assert (statuses.count(200), statuses.count(429)) == (16, 4)
