from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from server.store import SummaryStore, open_store
from tests.redis_server import running_redis


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


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each backend."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:{tmp_path / 'folder' / 'summaries.sqlite3'}"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[SummaryStore]:
    opened = await open_store(store_url)
    yield opened
    await opened.close()
