"""Nothing of one tenant is there for another, whatever route is tried (`tests/strangers.py` says how)."""

from contextlib import suppress
from pathlib import Path

import pytest

from server.core.documents.summaries import AllSummaries
from server.core.jobs.job import Job
from server.core.jobs.jobs import Jobs
from server.core.tenant import Tenant
from server.errors import JobNotFound
from tests.strangers import COMPARED, ENDING, LASTING, NAMES, strangers


@pytest.mark.slow
async def test_two_thousand_calls_with_others_ids_read_nothing(checkpoint: Path, tmp_path: Path) -> None:
    async with strangers(f"sqlite:{tmp_path}/store.sqlite3", checkpoint, seed=0) as own:
        await own.wander(2000)
    assert own.faults == []
    assert {name for name in own.tried if not name.startswith("own ")} == {*LASTING, *ENDING, "same text", "same key"}
    assert all(own.tried[f"own {name}"] for name in LASTING)
    assert min(own.tried[name] for name in COMPARED) > 20


@pytest.mark.parametrize("leak", ["summaries", "jobs"])
async def test_a_server_that_tells_would_be_found_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: str
) -> None:
    if leak == "summaries":
        of = AllSummaries.of
        monkeypatch.setattr(AllSummaries, "of", lambda self, tenant: of(self, Tenant()))  # one space for all
    else:
        whole = Jobs.get

        async def get(self: Jobs, tenant: Tenant, job_id: str) -> Job:
            for name in NAMES:
                with suppress(JobNotFound):
                    return await whole(self, Tenant().named(name), job_id)
            return await whole(self, tenant, job_id)

        monkeypatch.setattr(Jobs, "get", get)
    async with strangers(f"sqlite:{tmp_path}/store.sqlite3", checkpoint, seed=1) as own:
        await own.wander(150)
    assert [fault for fault in own.faults if "sees" in fault]
