"""A whole server around a tiny model, in this process or in one of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.core.build import open_core
from server.http.app import create_app
from server.settings import Settings
from tests.tiny import tiny_compressor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of 16 tokens, 4 vectors each, 512 positions; about two characters a token."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_compressor(max_positions=512).save_pretrained(directory)
    return directory


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(checkpoint: Path, tmp_path: Path) -> Serve:
    """Opens a server with some settings and gives a client of it; the store is kept between two of one test."""

    @asynccontextmanager
    async def open_server(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        defaults = {
            "model": str(checkpoint),
            "store": f"sqlite:{tmp_path}/store.sqlite3",
            "dtype": "float32",
            "allowed_hosts": "server",
        }
        async with open_core(Settings(**(defaults | settings))) as core:
            transport = httpx.ASGITransport(create_app(core), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                client.core, client.services = core, core.models.default  # type: ignore[attr-defined]  # for tests that look behind the API
                yield client

    return open_server


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as opened:
        yield opened
