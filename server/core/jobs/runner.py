"""Takes up unfinished jobs, whoever accepted them: a job is one server's at a time, by a lease in the store."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from server.core.documents.progress import Progress, Report
from server.core.documents.store_calls import StoreCalls
from server.core.jobs.job import Failure, Job
from server.core.jobs.stored import LEASE_SECONDS, StoredJobs
from server.core.jobs.unfinished import Unfinished, UnfinishedJobs
from server.core.tenant import Tenant
from server.errors import Internal, NotReady, ServiceError
from server.limits import MAX_JOB_ATTEMPTS, MAX_RUNNING_JOBS
from server.store import StoreError, SummaryStore

logger = logging.getLogger(__name__)

RENEW_SECONDS = 2.5  # between two words to the store of a job that runs
CANCEL_SECONDS = 1.0  # until work that was cancelled is cancelled again
POLL_SECONDS = 2.5  # between two looks for jobs that nobody works on
ACCEPTING_SECONDS = 60.0  # after which a job in the list that is not there will not come


@dataclass(frozen=True)
class Task:
    """What is to be done: a job, for its tenant, and the request as it came."""

    job: Job
    tenant: Tenant
    request: bytes


Work = Callable[[Task, Report], Awaitable[Any]]
"""Does a task, and gives what JSON has a form for; a ServiceError is the job's failure."""


@dataclass(eq=False)
class _Running:
    job: Job
    stored: StoredJobs
    task: "asyncio.Task[None] | None" = None
    progress: Progress | None = None

    def report(self, progress: Progress) -> None:
        self.progress = progress


class Runner:
    """Works on a few jobs at a time, the oldest first."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, tenant: Tenant) -> None:
        """`tenant`: of which all others are made."""
        self._store = store
        self._calls = calls
        self._tenant = tenant
        self._unfinished = UnfinishedJobs(store, calls)
        self._holder = uuid.uuid4().hex
        self._running: dict[str, _Running] = {}
        self._changed = asyncio.Event()
        self._work: Work | None = None
        self._is_ready: Callable[[], bool] = lambda: True
        self._looking: asyncio.Task[None] | None = None
        self._is_closing = False

    def begin(self, work: Work, is_ready: Callable[[], bool]) -> None:
        """Look for jobs from now on; where it did, with this work.

        Args:
            is_ready: while it says no, none is taken.
        """
        self._work, self._is_ready = work, is_ready
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def look(self) -> None:
        """There may be a job to take."""
        self._changed.set()

    def progress(self, job_id: str) -> Progress | None:
        """How far a job is that runs here; None of others."""
        running = self._running.get(job_id)
        return None if running is None else running.progress

    async def stop(self, job_id: str) -> None:
        """End the work on a job, where it is here."""
        running = self._running.get(job_id)
        if running is not None and running.task is not None:
            # again where it was lost: a call to a Redis cluster was seen to swallow the first one
            while not running.task.done():
                running.task.cancel()
                await asyncio.wait([running.task], timeout=CANCEL_SECONDS)

    async def close(self) -> None:
        """Leave all jobs to other servers, or to this one's next start; the last call."""
        self._is_closing = True
        self.look()
        if self._looking is not None:
            await self._looking
        left = list(self._running.values())
        await asyncio.gather(*(self.stop(each.job.id) for each in left))
        for each in left:
            with suppress(ServiceError):  # the lease runs out by itself
                given_back = replace(each.job, attempts=each.job.attempts - 1)
                await each.stored.release(given_back, self._holder)

    async def _look(self) -> None:
        while not self._is_closing:
            with suppress(ServiceError, StoreError):  # the next look may do better
                await self._take_some()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._changed.wait()
            self._changed.clear()

    async def _take_some(self) -> None:
        if not self._is_ready() or len(self._running) >= MAX_RUNNING_JOBS:
            return
        for entry in await self._unfinished.all():
            if entry.id not in self._running:
                await self._take(entry)
            if len(self._running) >= MAX_RUNNING_JOBS or self._is_closing:
                return

    async def _take(self, entry: Unfinished) -> None:
        """Begin a job where nobody works on it; one that has ended leaves the list."""
        stored = StoredJobs(self._store, entry.account, self._calls)
        job = await stored.find(entry.id)
        if job is None or job.is_ended:
            if job is not None:
                await stored.clear(job)
            if job is not None or entry.age_seconds > ACCEPTING_SECONDS:
                await self._unfinished.remove(entry)
            return
        tenant = self._tenant.named(job.tenant)
        if tenant.account != entry.account:
            self._calls.warn("job of another salt", f"{entry.id} is of a server with another tenant_salt, and is left")
        elif job.status == "queued" and await stored.hold(entry.id, self._holder):
            running = _Running(replace(job, status="running", attempts=job.attempts + 1), stored)
            self._running[job.id] = running
            running.task = asyncio.create_task(self._run(running, tenant, entry))
            running.task.add_done_callback(lambda _: self._forget(job.id))

    async def _run(self, running: _Running, tenant: Tenant, entry: Unfinished) -> None:
        with suppress(ServiceError, _Left):  # the lease runs out, and whoever takes it goes on
            if await running.stored.update(running.job, self._holder):
                await self._work_on(running, tenant)
                await self._unfinished.remove(entry)

    def _forget(self, job_id: str) -> None:
        """Of a job that does not run here any more; one that was cancelled before it ran among them."""
        del self._running[job_id]
        self.look()

    async def _work_on(self, running: _Running, tenant: Tenant) -> None:
        """Do the work while the lease is held, and keep what came of it.

        Raises:
            ServiceError: of the store. _Left: the job is another's to end.
        """
        work = asyncio.ensure_future(self._done(running, tenant))
        held_at = time.monotonic()
        try:
            while not (await asyncio.wait({work}, timeout=RENEW_SECONDS))[0]:
                renewing_at = time.monotonic()
                try:
                    is_held = await running.stored.hold(running.job.id, self._holder, running.progress)
                except ServiceError:
                    if time.monotonic() - held_at > LEASE_SECONDS:
                        raise
                    continue
                if not is_held:
                    raise _Left
                held_at = renewing_at
            await self._end(running, work)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _done(self, running: _Running, tenant: Tenant) -> Any:
        """What the work gives, once."""
        job = running.job
        if job.attempts > MAX_JOB_ATTEMPTS:
            raise Internal(f"the server ended {MAX_JOB_ATTEMPTS} times while it was at work on this job")
        request = await running.stored.request(job.id)
        if request is None:
            raise Internal("the request of this job is gone from the store")
        assert self._work is not None  # before `begin` none is taken
        return await self._work(Task(job, tenant, request), running.report)

    async def _end(self, running: _Running, work: "asyncio.Future[Any]") -> None:
        """Keep the result or the failure of work that is done; raises as `_work_on`."""
        ended = replace(running.job, progress=running.progress)
        error = work.exception()
        if isinstance(error, NotReady) and ended.attempts < MAX_JOB_ATTEMPTS:
            raise _Left from error  # the engine or the store is gone, and may be back
        if error is None:
            ended = replace(ended, status="done", result=work.result())
        elif isinstance(error, ServiceError):
            ended = replace(ended, status="failed", failure=Failure.of(error))
        else:
            # by asyncio's logger, whose lines have no exception's words: those may be a text's
            asyncio.get_running_loop().call_exception_handler({"message": "a job failed", "exception": error})
            failure = Internal("the server has failed on this job; its log says more")
            ended = replace(ended, status="failed", failure=Failure.of(failure))
        for _ in range(2):
            if await running.stored.end(ended, holder=self._holder):
                return
            if not await running.stored.hold(running.job.id, self._holder):
                break
        raise _Left


class _Left(Exception):
    """The job is another's now, or has ended, or is to be tried again."""
