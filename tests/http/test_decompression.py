"""Bodies with a Content-Encoding: decoded under the limit of what comes out, or refused in words."""

import gzip

import httpx
import pytest
import zstandard
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from server.http.middleware.decompression import Decompression

LIMIT = 100_000
TEXT = b"The keeper wrote one line a day. " * 100
CODERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(Decompression, max_bytes=LIMIT)

    @app.post("/size")
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def send(client: httpx.AsyncClient, body: bytes, name: str) -> tuple[int, str]:
    response = await client.post("/size", content=body, headers={"Content-Encoding": name})
    return response.status_code, response.text


@pytest.mark.parametrize("name", CODERS)
async def test_what_was_encoded_is_read(client: httpx.AsyncClient, name: str) -> None:
    assert await send(client, CODERS[name](TEXT), name.upper()) == (200, str(len(TEXT)))


async def test_identity_is_no_encoding(client: httpx.AsyncClient) -> None:
    assert await send(client, TEXT, "identity") == (200, str(len(TEXT)))


@pytest.mark.parametrize("name", CODERS)
async def test_the_limit_is_of_what_comes_out(client: httpx.AsyncClient, name: str) -> None:
    assert await send(client, CODERS[name](b"x" * LIMIT), name) == (200, str(LIMIT))
    bomb = CODERS[name](b"\x00" * 50_000_000)
    assert len(bomb) < LIMIT
    status, told = await send(client, bomb, name)
    assert (status, f"over the limit of {LIMIT} bytes" in told) == (413, True)


@pytest.mark.parametrize("name", CODERS)
async def test_a_body_that_is_something_else_is_named(client: httpx.AsyncClient, name: str) -> None:
    status, told = await send(client, TEXT, name)
    assert (status, f"the body is not {name}" in told) == (400, True)
    status, told = await send(client, CODERS[name](TEXT)[:-4], name)
    assert (status, "not whole" in told) == (400, True)


async def test_a_window_of_gigabytes_is_refused(client: httpx.AsyncClient) -> None:
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27))
    stream = wide.compressobj()
    status, _ = await send(client, stream.compress(b"x" * 1000) + stream.flush(), "zstd")
    assert status == 400


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, zstd", "nothing"])
async def test_other_encodings_are_named(client: httpx.AsyncClient, name: str) -> None:
    status, told = await send(client, TEXT, name)
    assert (status, "gzip and zstd are" in told) == (415, True)
