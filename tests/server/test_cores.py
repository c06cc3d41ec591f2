"""The engine's thread has the cores while a server runs, and every other thread one."""

import asyncio

import pytest
import torch

from server.engine.torch.cores import in_a_thread_that_ends, one_core_elsewhere
from tests.server.conftest import Serve


async def test_only_the_engine_computes_on_several_cores(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    try:
        async with serve() as client:
            runner = client.services.decoder._runner
            run = runner.run
            monkeypatch.setattr(runner, "run", lambda pieces: seen.append(torch.get_num_threads()) or run(pieces))
            reply = await client.post("/generate", json={"prompt": "The keeper", "max_tokens": 2})
            assert reply.status_code == 200
            assert torch.get_num_threads() == await asyncio.to_thread(torch.get_num_threads) == 1
        assert set(seen) == {2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


async def test_work_before_that_has_all_cores_and_its_errors_are_raised() -> None:
    assert await in_a_thread_that_ends(torch.get_num_threads) == torch.get_num_threads()
    with one_core_elsewhere():
        assert await in_a_thread_that_ends(torch.get_num_threads) == 1
