from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from server.store import SealedStore, StoreKeys, SummaryStore, open_store
from tests.redis_server import running_redis
from tests.redis_topologies import ask, port_of, running_cluster


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty database."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as urls:
        yield urls


@pytest.fixture
def cluster_url(redis_cluster: list[str]) -> str:
    """An empty cluster of three primaries."""
    primaries = redis_cluster[:3]
    for url in primaries:
        ask(url, "FLUSHALL")
    return f"redis+cluster://{','.join(f'127.0.0.1:{port_of(url)}' for url in primaries)}"


Opens = Callable[[str], Awaitable[SummaryStore]]
STORE_KEYS = ("first" * 8, "second" * 8)
BACKENDS = ["embedded", "sealed", *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "cluster"))]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each backend."""
    if backend not in ("embedded", "sealed"):
        return str(request.getfixturevalue(f"{backend}_url"))
    return f"sqlite:{tmp_path / 'folder' / 'summaries.sqlite3'}"


@pytest.fixture
def opens(backend: str) -> Opens:
    """What opens a store as a user does."""

    async def opened(url: str) -> SummaryStore:
        store = await open_store(url)
        return SealedStore(store, StoreKeys(STORE_KEYS if backend == "sealed" else ()))

    return opened


@pytest.fixture
async def store(store_url: str, opens: Opens) -> AsyncIterator[SummaryStore]:
    opened = await opens(store_url)
    yield opened
    await opened.close()
