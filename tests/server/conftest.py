"""A whole server around a tiny model, in this process or in one of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.core.build import open_core
from server.core.core import Core
from server.core.services import Services
from server.http.app import create_app
from server.settings import Settings
from tests.tiny import tiny_compressor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of 16 tokens, 4 vectors each, 512 positions; about two characters a token."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_compressor(max_positions=512).save_pretrained(directory)
    return directory


NAMES_ITS_MODEL = ("/v1/completions", "/v1/chat/completions")


class Client(httpx.AsyncClient):
    """Names the model where the server wants it and a test does not say; what a test gives as `content` stays as it is.

    Attributes:
        core, services: what is behind the API.
    """

    core: Core
    services: Services

    async def request(self, method: str, url: Any, *, json: Any = None, **given: Any) -> httpx.Response:
        return await super().request(method, url, json=named(url, json, self.services.model.name), **given)


def named(path: Any, body: Any, model: str) -> Any:
    """A request's body with the model's name, where its route wants one and it has none."""
    return {"model": model, **body} if path in NAMES_ITS_MODEL and isinstance(body, dict) else body


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
            async with Client(transport=transport, base_url="http://server") as client:
                client.core, client.services = core, core.models.default
                yield client

    return open_server


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as opened:
        yield opened
