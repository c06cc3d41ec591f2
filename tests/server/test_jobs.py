"""Jobs over HTTP; how they are kept and taken up stands in `tests/store/test_stored_jobs.py`."""

import asyncio
from typing import Any

import httpx
import pytest

from server.core.documents.segments import Segments
from server.store import EmbeddedStore, StoreUnavailable
from tests.server.conftest import Serve

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6


async def finished(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            job: dict[str, Any] = (await client.get(f"/jobs/{job_id}")).json()
            if job["status"] not in ("queued", "running"):
                return job
            await asyncio.sleep(0.01)


async def test_a_job_ends_in_what_compress_answers(client: httpx.AsyncClient) -> None:
    started = await client.post("/jobs/compress", json={"text": DOCUMENT})
    assert started.status_code == 202
    assert started.json()["result"] is None
    job = await finished(client, started.json()["id"])
    assert job["status"] == "done"
    segments = job["result"]["segments"]
    assert job["progress"] == {"segments_done": segments, "segments_total": segments}
    same = await client.post("/compress", json={"text": DOCUMENT})
    assert (same.status_code, same.json()["id"]) == (200, job["result"]["id"])
    assert (await client.delete(f"/jobs/{job['id']}")).json() == job


async def test_a_job_of_several_documents(client: httpx.AsyncClient) -> None:
    body = {"documents": [{"text": f"{number} {DOCUMENT}"} for number in range(3)]}
    job = await finished(client, (await client.post("/jobs/compress", json=body)).json()["id"])
    assert len(job["result"]["data"]) == 3


async def test_a_job_that_fails_says_why(client: httpx.AsyncClient) -> None:
    job = await finished(client, (await client.post("/jobs/compress", json={"text": ""})).json()["id"])
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_request"


async def test_one_key_is_one_job(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "first"}
    one = await client.post("/jobs/compress", json={"text": DOCUMENT}, headers=headers)
    same = await client.post("/jobs/compress", json={"text": DOCUMENT}, headers=headers)
    assert one.json()["id"] == same.json()["id"]
    other = await client.post("/jobs/compress", json={"text": "other"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")


async def test_a_job_tells_whose_fault_its_end_is_as_compress_does(client: httpx.AsyncClient) -> None:
    body = {"text": ""}
    job = await finished(client, (await client.post("/jobs/compress", json=body)).json()["id"])
    assert job["error"] == (await client.post("/compress", json=body)).json()["error"]
    assert job["error"]["type"] == "invalid_request_error"
    long_key = {"Idempotency-Key": "k" * 300}
    refused = (await client.post("/jobs/compress", json=body, headers=long_key)).json()["error"]
    assert refused["param"] == "idempotency-key"
    assert "it has 300" in refused["message"]


async def test_unknown_jobs_and_streams(client: httpx.AsyncClient) -> None:
    assert (await client.get("/jobs/unknown")).json()["error"]["code"] == "job_not_found"
    assert (await client.delete("/jobs/unknown")).status_code == 404
    assert (await client.post("/jobs/compress", json={"text": "a", "stream": True})).status_code == 400


async def test_a_job_holds_nothing_of_its_body_once_it_is_accepted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 jobs of 16 MB each would fill the memory: a request is in the store until its job runs, and then goes."""
    registry = client.core.metrics.registry  # type: ignore[attr-defined]
    store = client.core.store  # type: ignore[attr-defined]
    space = store.space(f"{client.core.tenant.account}.jobs")  # type: ignore[attr-defined]

    async def waits(document: Any, report: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client.services.intake, "one", waits)  # type: ignore[attr-defined]
    headers = {"Idempotency-Key": "held"}
    started = [await client.post("/jobs/compress", json={"text": "x" * 1000}, headers=headers) for _ in range(2)]
    assert registry.get_sample_value("autocompressor_body_bytes") == 0
    assert await space.size_bytes() > 1000
    await client.delete(f"/jobs/{started[0].json()['id']}")
    assert await space.size_bytes() < 1000


async def test_a_restart_finishes_what_was_accepted_and_tells_what_was_done(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orderly one, half way: the job goes on at once, and what is stored of its document is not computed again."""
    headers = {"Idempotency-Key": "the same"}
    async with serve() as client:
        done = await finished(client, (await client.post("/jobs/compress", json={"text": DOCUMENT})).json()["id"])
        put, is_half = Segments.put, asyncio.Event()

        async def half(self: Segments, *given: Any, **more: Any) -> None:
            if is_half.is_set():
                await asyncio.Event().wait()
            await put(self, *given, **more)
            is_half.set()

        monkeypatch.setattr(Segments, "put", half)
        started = await client.post("/jobs/compress", json={"text": f"Other: {DOCUMENT}"}, headers=headers)
        await is_half.wait()
        told = (await client.get(f"/jobs/{started.json()['id']}")).json()
        assert (told["status"], told["progress"]["segments_done"]) == ("running", 1)
        monkeypatch.undo()
    async with serve() as client:
        assert (await client.get(f"/jobs/{done['id']}")).json() == done
        again = await client.post("/jobs/compress", json={"text": f"Other: {DOCUMENT}"}, headers=headers)
        assert again.json()["id"] == started.json()["id"]
        job = await finished(client, again.json()["id"])
        assert (job["status"], job["result"]["cached_segments"]) == ("done", 1)


async def test_a_job_of_a_store_that_is_gone_is_not_accepted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedStore, "put_many", fails)
        refused = await client.post("/jobs/compress", json={"text": DOCUMENT})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    spaces = {space.space: space.entries for space in await client.core.store.stats()}  # type: ignore[attr-defined]
    assert "jobs" not in spaces


async def test_a_defect_of_the_work_is_the_server_s(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(document: Any, report: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client.services.intake, "one", fails)  # type: ignore[attr-defined]
    job = await finished(client, (await client.post("/jobs/compress", json={"text": DOCUMENT})).json()["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")
