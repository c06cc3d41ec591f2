"""Jobs over a real server, and their registry alone."""

import asyncio
import gc
import weakref
from typing import Any

import httpx
import pytest

from server import limits
from server.core import jobs
from server.core.documents.progress import Progress, Report
from server.core.jobs import Jobs
from server.errors import IdempotencyMismatch, InvalidRequest, JobNotFound, Overloaded

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6
DIGEST = b"digest"


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


async def endless(report: Report) -> None:
    report(Progress(done=1, total=2, cached=0, tokens=4, vectors=2))
    await asyncio.Event().wait()


async def at_once(report: Report) -> str:
    return "done"


async def test_cancelling_ends_running_and_queued_jobs() -> None:
    registry = Jobs()
    started = [registry.start(endless, digest=DIGEST) for _ in range(limits.MAX_RUNNING_JOBS + 1)]
    await asyncio.sleep(0.01)
    assert [job.status for job in started] == ["running"] * limits.MAX_RUNNING_JOBS + ["queued"]
    for job in (started[0], started[-1]):
        assert (await registry.cancel(job.id)).status == "cancelled"
    assert started[0].progress == Progress(done=1, total=2, cached=0, tokens=4, vectors=2)
    unstarted = registry.start(at_once, digest=DIGEST)
    assert (await registry.cancel(unstarted.id)).status == "cancelled"
    await registry.close()
    assert {job.status for job in started} == {"cancelled"}


async def test_too_many_unfinished_jobs() -> None:
    registry = Jobs()
    for _ in range(limits.MAX_OWN_UNFINISHED_JOBS):
        registry.start(endless, digest=DIGEST, owner="one")
    with pytest.raises(Overloaded, match="48 of your jobs"):
        registry.start(endless, digest=DIGEST, owner="one")
    for _ in range(limits.MAX_UNFINISHED_JOBS - limits.MAX_OWN_UNFINISHED_JOBS):
        registry.start(endless, digest=DIGEST, owner="other")
    with pytest.raises(Overloaded, match="as many unfinished jobs as it takes"):
        registry.start(endless, digest=DIGEST, owner="other")
    await registry.close()
    registry.start(at_once, digest=DIGEST)
    await registry.close()


async def test_finished_jobs_are_forgotten_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Jobs()
    job = registry.start(at_once, digest=DIGEST, idempotency_key="key")
    with pytest.raises(IdempotencyMismatch):
        registry.start(at_once, digest=b"other", idempotency_key="key")
    await asyncio.sleep(0.01)
    assert registry.get(job.id).result == "done"
    monkeypatch.setattr(jobs, "KEPT_SECONDS", -1.0)
    with pytest.raises(JobNotFound):
        registry.get(job.id)
    assert registry.start(at_once, digest=b"other", idempotency_key="key") is not job
    await registry.close()


async def test_a_job_that_did_not_succeed_starts_again_under_its_key() -> None:
    async def refused(_: Report) -> None:
        raise InvalidRequest("no")

    async def for_ever(_: Report) -> None:
        await asyncio.Event().wait()

    registry = Jobs()
    failed = registry.start(refused, digest=DIGEST, idempotency_key="key")
    await asyncio.wait([failed.task])  # type: ignore[type-var]
    cancelled = registry.start(for_ever, digest=DIGEST, idempotency_key="key")
    await registry.cancel(cancelled.id)
    done = registry.start(at_once, digest=DIGEST, idempotency_key="key")
    await asyncio.wait([done.task])  # type: ignore[type-var]
    assert [job.status for job in (failed, cancelled, done)] == ["failed", "cancelled", "done"]
    assert registry.start(at_once, digest=DIGEST, idempotency_key="key") is done


async def test_an_error_of_the_work_is_the_job_s() -> None:
    async def refused(report: Report) -> None:
        raise InvalidRequest("no")

    registry = Jobs()
    job = registry.start(refused, digest=DIGEST)
    await asyncio.sleep(0.01)
    assert job.status == "failed"
    assert isinstance(job.error, InvalidRequest)


async def test_a_job_holds_its_body_s_bytes_until_it_ends(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 jobs of 16 MB each waited without being counted, after their requests had ended."""
    registry = client.core.metrics.registry  # type: ignore[attr-defined]

    def held() -> float:
        return registry.get_sample_value("autocompressor_body_bytes") or 0.0

    monkeypatch.setattr(client.services.intake, "one", lambda document, report: asyncio.Event().wait())  # type: ignore[attr-defined]
    headers = {"Idempotency-Key": "held"}
    started = [await client.post("/jobs/compress", json={"text": "x" * 1000}, headers=headers) for _ in range(2)]
    assert 1000 < held() < 2000
    await client.delete(f"/jobs/{started[0].json()['id']}")
    assert held() == 0


async def test_a_job_that_failed_keeps_nothing_of_its_documents() -> None:
    """An error's frames held them for an hour."""

    class Text: ...

    async def fails(_: Report) -> None:
        text = Text()
        known.append(weakref.ref(text))
        raise InvalidRequest("no tokens")

    known: list[weakref.ref[Text]] = []
    started = Jobs()
    job = started.start(fails, digest=DIGEST)
    assert job.task is not None
    await job.task
    assert isinstance(job.error, InvalidRequest)
    gc.collect()
    assert known[0]() is None
