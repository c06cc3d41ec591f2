"""Jobs of servers that share a store, on each backend: accepted, done by one of them, answered for by all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from server.core.documents.progress import Progress, Report
from server.core.documents.store_calls import StoreCalls
from server.core.jobs import runner, stored
from server.core.jobs.job import Job
from server.core.jobs.jobs import Jobs
from server.core.jobs.runner import Task
from server.core.jobs.stored import StoredJobs
from server.core.tenant import Tenant
from server.errors import IdempotencyMismatch, InvalidRequest, JobNotFound, NotReady, Overloaded
from server.metrics import Metrics
from server.store import Entry, SummaryStore, open_store

ROOT = Tenant("salt")
ONE, OTHER = ROOT.named("one"), ROOT.named("other")
REQUEST = b"a text"
ONE_BACKEND = pytest.mark.parametrize("store_url", ["embedded"], indirect=True)  # nothing of the store's own
HALF = Progress(done=1, total=2, cached=0, tokens=4, vectors=2)


class Replica:
    """A server's jobs, which wait until `is_open` and give what they were asked; `begun` has their ids."""

    def __init__(self, store: SummaryStore) -> None:
        self.store = store
        self.jobs = Jobs(store, StoreCalls(Metrics()), ROOT, max_bytes=10_000)
        self.is_open = asyncio.Event()
        self.begun: list[str] = []
        self.error: Exception | None = None

    def begin(self) -> None:
        self.jobs.begin(self.work, is_ready=lambda: True)

    async def work(self, task: Task, report: Report) -> Any:
        self.begun.append(task.job.id)
        report(HALF)
        await self.is_open.wait()
        if self.error is not None:
            raise self.error
        return {"tenant": task.tenant.name, "request": task.request.decode()}

    async def kill(self) -> None:
        """End as by `kill -9`: nothing is given back."""
        own = self.jobs._runner
        own._is_closing = True
        own.look()
        for each in list(own._running.values()):
            await own.stop(each.job.id)

    async def ended(self, job: Job, tenant: Tenant = ONE) -> Job:
        async with asyncio.timeout(10):
            while not (found := await self.jobs.get(tenant, job.id)).is_ended:
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def replicas(store_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Replica]]:
    """Two, neither of which has begun."""
    for each in (stored, runner):
        monkeypatch.setattr(each, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    async with AsyncExitStack() as opened:
        found = []
        for _ in range(2):
            store = await open_store(store_url)
            opened.push_async_callback(store.close)
            found.append(Replica(store))
            opened.push_async_callback(found[-1].jobs.close)
        yield found


async def eventually(is_so: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while True:
            told = is_so()
            if told if isinstance(told, bool) else await told:
                return
            await asyncio.sleep(0.01)


async def test_a_job_is_done_by_one_and_told_by_all(replicas: list[Replica]) -> None:
    one, other = replicas
    job = await one.jobs.start(ONE, REQUEST, caller="reader", idempotency_key="key")
    assert (await other.jobs.get(ONE, job.id)).status == "queued"
    assert (await other.jobs.start(ONE, REQUEST, idempotency_key="key")).id == job.id
    for each in replicas:
        each.begin()
    await eventually(lambda: bool(one.begun + other.begun))

    async def is_told() -> bool:
        told = [await each.jobs.get(ONE, job.id) for each in replicas]
        return [(each.status, each.progress) for each in told] == [("running", HALF)] * 2

    await eventually(is_told)
    await asyncio.sleep(1.2)  # longer than a lease
    one.is_open.set()
    other.is_open.set()
    ended = await one.ended(job)
    assert (ended.status, ended.caller, ended.progress) == ("done", "reader", HALF)
    assert ended.result == {"tenant": "one", "request": "a text"}
    assert await other.jobs.get(ONE, job.id) == ended
    assert one.begun + other.begun == [job.id]
    assert (await other.jobs.start(ONE, REQUEST, idempotency_key="key")).id == job.id
    with pytest.raises(IdempotencyMismatch):
        await other.jobs.start(ONE, b"another", idempotency_key="key")
    for tenant in (OTHER, ROOT):
        with pytest.raises(JobNotFound):
            await one.jobs.get(tenant, job.id)
        with pytest.raises(JobNotFound):
            await one.jobs.cancel(tenant, job.id)
    assert (await one.jobs.start(OTHER, b"another", idempotency_key="key")).id != job.id


async def test_a_job_of_a_server_that_was_killed_is_another_s_once_its_lease_ran_out(replicas: list[Replica]) -> None:
    one, other = replicas
    job = await one.jobs.start(ONE, REQUEST)
    one.begin()
    await eventually(lambda: bool(one.begun))
    await one.kill()
    assert (await other.jobs.get(ONE, job.id)).status == "running"  # nobody knows yet
    other.begin()
    other.is_open.set()
    assert (await other.ended(job)).status == "done"
    assert other.begun == [job.id]


async def test_a_server_that_stops_leaves_its_jobs_at_once(replicas: list[Replica]) -> None:
    one, other = replicas
    job = await one.jobs.start(ONE, REQUEST)
    one.begin()
    await eventually(lambda: bool(one.begun))
    await one.jobs.close()
    left = await other.jobs.get(ONE, job.id)
    assert (left.status, left.attempts) == ("queued", 0)


async def test_cancelling_ends_a_job_wherever_it_is(replicas: list[Replica]) -> None:
    one, other = replicas
    queued = await one.jobs.start(ONE, REQUEST, idempotency_key="queued")
    assert (await other.jobs.cancel(ONE, queued.id)).status == "cancelled"
    running = await one.jobs.start(ONE, REQUEST)
    one.begin()
    await eventually(lambda: bool(one.begun))
    assert (await other.jobs.cancel(ONE, running.id)).status == "cancelled"
    assert (await one.jobs.get(ONE, running.id)).status == "cancelled"
    await eventually(lambda: not one.jobs._runner._running)
    own = await one.jobs.start(ONE, REQUEST)
    await eventually(lambda: own.id in one.begun)
    assert (await one.jobs.cancel(ONE, own.id)).progress == HALF
    assert not one.jobs._runner._running
    assert one.begun == [running.id, own.id]
    assert (await other.jobs.start(ONE, b"another", idempotency_key="new")).status == "queued"
    assert (await other.jobs.start(ONE, REQUEST, idempotency_key="queued")).id != queued.id


async def test_of_an_ended_job_nothing_is_left_but_its_end_and_that_for_an_hour(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = replicas
    one.begin()
    one.is_open.set()
    monkeypatch.setattr(stored, "KEPT_SECONDS", 0.5)
    job = await one.jobs.start(ONE, REQUEST, idempotency_key="key")
    assert (await one.ended(job)).status == "done"
    space = one.store.space(f"{ONE.account}.jobs")
    await eventually(lambda: not one.jobs._runner._running)
    keys = [key async for keys in space.walk() for key in keys if not key.startswith(("lease:", "progress:"))]
    assert sorted(key.partition(":")[0] for key in keys) == ["ended", "ended-key"]
    assert not [keys async for keys in one.store.space("jobs").walk() if keys]
    await asyncio.sleep(0.5)
    with pytest.raises(JobNotFound):
        await other.jobs.get(ONE, job.id)
    assert (await other.jobs.start(ONE, b"another", idempotency_key="key")).id != job.id


@ONE_BACKEND
async def test_too_many_unfinished_jobs_whoever_accepted_them(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.core.jobs.jobs.MAX_OWN_UNFINISHED_JOBS", 3)
    monkeypatch.setattr("server.core.jobs.jobs.MAX_UNFINISHED_JOBS", 4)
    one, other = replicas
    await asyncio.gather(*(one.jobs.start(ONE, REQUEST) for _ in range(2)))
    last = await other.jobs.start(ONE, REQUEST)
    for each in replicas:
        with pytest.raises(Overloaded, match="3 of your jobs are unfinished, and the limit is 3"):
            await each.jobs.start(ONE, REQUEST)
    with pytest.raises(Overloaded, match="over 10000 bytes"):
        await one.jobs.start(OTHER, b"x" * 9_990)
    await one.jobs.start(OTHER, REQUEST)
    with pytest.raises(Overloaded, match="as many unfinished jobs as it takes"):
        await other.jobs.start(OTHER, REQUEST)
    await one.jobs.cancel(ONE, last.id)
    await other.jobs.start(OTHER, REQUEST)


@ONE_BACKEND
async def test_what_did_not_succeed_starts_again_under_its_key(replicas: list[Replica]) -> None:
    one, other = replicas
    one.begin()
    one.is_open.set()
    one.error = InvalidRequest("no", param="text")
    failed = await one.ended(await one.jobs.start(ONE, REQUEST, idempotency_key="key"))
    assert failed.failure is not None
    error = failed.failure.error
    assert (failed.status, type(error), error.message, error.param) == ("failed", InvalidRequest, "no", "text")
    with pytest.raises(IdempotencyMismatch):
        await other.jobs.start(ONE, b"another", idempotency_key="key")
    one.error = None
    again = await one.ended(await other.jobs.start(ONE, REQUEST, idempotency_key="key"))
    assert (again.status, again.id != failed.id) == ("done", True)
    assert (await one.jobs.start(ONE, REQUEST, idempotency_key="key")).id == again.id


@ONE_BACKEND
async def test_a_store_or_an_engine_that_is_gone_for_a_while_fails_no_job(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_JOB_ATTEMPTS", 2)
    one, _ = replicas
    one.is_open.set()
    one.begin()
    one.error = NotReady("gone")
    job = await one.jobs.start(ONE, REQUEST)
    await eventually(lambda: len(one.begun) == 1)
    one.error = None
    assert (await one.ended(job)).status == "done"
    one.error = NotReady("gone")
    ended = await one.ended(await one.jobs.start(ONE, REQUEST))
    assert (ended.status, ended.attempts, ended.failure and ended.failure.code) == ("failed", 2, "not_ready")


@ONE_BACKEND
async def test_a_job_that_ends_every_server_is_given_up(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_JOB_ATTEMPTS", 1)
    one, other = replicas
    job = await one.jobs.start(ONE, REQUEST)
    one.begin()
    await eventually(lambda: bool(one.begun))
    await one.kill()
    other.begin()
    ended = await other.ended(job)
    assert ended.failure is not None
    assert "the server ended 1 times" in ended.failure.message
    assert other.begun == []


@ONE_BACKEND
async def test_what_was_left_half_way_and_what_is_damaged_leaves_the_list(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = replicas
    monkeypatch.setattr(StoredJobs, "accept", _ends)
    with pytest.raises(KeyboardInterrupt):
        await one.jobs.start(ONE, REQUEST)  # the list has it, and nothing else
    monkeypatch.undo()
    job = await one.jobs.start(ONE, REQUEST, idempotency_key="key")
    await one.store.space(f"{ONE.account}.jobs").put_many([Entry(f"job:{job.id}", b"junk", (f"request:{job.id}",))])
    monkeypatch.setattr(runner, "ACCEPTING_SECONDS", 0.0)
    other.begin()

    async def is_empty() -> bool:
        return not [keys async for keys in one.store.space("jobs").walk() if keys]

    await eventually(is_empty)
    with pytest.raises(JobNotFound):
        await one.jobs.get(ONE, job.id)


async def _ends(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
