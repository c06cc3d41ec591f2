"""One server around a tiny model in a process of its own, for all tests of its clients."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.core.build import open_core
from server.settings import Settings
from tests.server.corpora import indexed
from tests.server.test_crash import Server, running
from tests.tiny import tiny_compressor


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of 16 tokens, 4 vectors each, 512 positions."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_compressor(max_positions=512).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def live(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It has a corpus, library."""
    folder = tmp_path_factory.mktemp("server")

    async def index() -> Path:
        settings = Settings(model=str(tiny_checkpoint), dtype="float32", store=f"sqlite:{folder}/corpus.sqlite3")
        async with open_core(settings) as core:
            return await indexed(core, folder)

    corpora = f"library={asyncio.run(index())}"
    with running(tiny_checkpoint, f"sqlite:{folder}/store.sqlite3", folder, "--corpora", corpora) as server:
        yield server


@pytest.fixture
def url(live: Server) -> str:
    return str(live.client.base_url)
