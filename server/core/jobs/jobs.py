"""Long work that a client comes back for.

A job that was accepted is in the store: it outlives the server, and every server on the same store answers for it.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

from server.core.documents.store_calls import StoreCalls
from server.core.jobs.job import Job, digest_of
from server.core.jobs.runner import Runner, Work
from server.core.jobs.stored import StoredJobs
from server.core.jobs.unfinished import Unfinished, UnfinishedJobs
from server.core.tenant import Tenant
from server.errors import IdempotencyMismatch, JobNotFound, NotReady, Overloaded
from server.limits import MAX_OWN_UNFINISHED_JOBS, MAX_UNFINISHED_JOBS
from server.store import SummaryStore

MAX_TRIES = 20  # to find what an Idempotency-Key stands for, while others use it


class Jobs:
    """Accepts jobs, tells how they are, and has them done."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, tenant: Tenant, *, max_bytes: int) -> None:
        """
        Args:
            tenant: of which all others are made.
            max_bytes: most that the requests of all unfinished jobs may have together, and what a tenant's jobs may
                have, their results included.
        """
        self._store = store
        self._calls = calls
        self._unfinished = UnfinishedJobs(store, calls)
        self._runner = Runner(store, calls, tenant)
        self._max_bytes = max_bytes
        self._accepting = asyncio.Lock()  # so that one process never exceeds a limit; of several each may by one job

    def begin(self, work: Work, *, is_ready: Callable[[], bool]) -> None:
        """As `Runner.begin`."""
        self._runner.begin(work, is_ready)

    async def start(
        self, tenant: Tenant, request: bytes, *, caller: str | None = None, idempotency_key: str | None = None
    ) -> Job:
        """A job for this request, or the one that was started under the same key and has not failed or been cancelled.

        It is in the store when this returns.

        Args:
            tenant: whose job it is; others do not see it, and their equal keys are other keys.
            caller: the name of the API key that asks.

        Raises:
            IdempotencyMismatch: the key was used for another request. Overloaded: too many unfinished ones.
            NotReady, StoreExhausted: of the store; nothing was accepted.
        """
        digest = await asyncio.to_thread(digest_of, request)
        key = None if idempotency_key is None else hashlib.sha256(idempotency_key.encode()).hexdigest()
        job = Job(tenant=tenant.name, caller=caller, digest=digest, num_bytes=len(request), key=key)
        stored = self._stored(tenant)
        async with self._accepting:
            for _ in range(MAX_TRIES):
                known, ended_key = (None, None) if key is None else await stored.under(key)
                if known is not None:
                    if known.digest != digest:
                        raise IdempotencyMismatch(
                            f"the Idempotency-Key {idempotency_key!r} was used for another request"
                        )
                    if known.status not in ("failed", "cancelled"):
                        return known
                    await stored.clear(known)
                if await self._accepted(tenant, job, request, ended_key):
                    self._runner.look()
                    return job
        raise NotReady("others use the Idempotency-Key all the time; try again later")

    async def get(self, tenant: Tenant, job_id: str) -> Job:
        """A job by its id; JobNotFound where its tenant has none, or none any more."""
        job = await self._stored(tenant).find(job_id)
        if job is None:
            raise JobNotFound(f"there is no job {job_id!r}", param="id")
        progress = self._runner.progress(job_id)
        return job if job.is_ended or progress is None else replace(job, progress=progress)

    async def cancel(self, tenant: Tenant, job_id: str) -> Job:
        """End a job, whichever server works on it; one that has ended stays as it is. JobNotFound as `get`."""
        job = await self.get(tenant, job_id)
        if job.is_ended:
            return job
        cancelled = replace(job, status="cancelled")
        if not await self._stored(tenant).end(cancelled):
            return await self.get(tenant, job_id)  # it ended meanwhile
        await self._runner.stop(job_id)
        await self._unfinished.remove(Unfinished.of(job, tenant.account))
        return cancelled

    async def close(self) -> None:
        """Leave what is unfinished to other servers, or to the next start; the last call."""
        await self._runner.close()

    def _stored(self, tenant: Tenant) -> StoredJobs:
        return StoredJobs(self._store, tenant.account, self._calls)

    async def _accepted(self, tenant: Tenant, job: Job, request: bytes, ended_key: bytes | None) -> bool:
        """Keep a job that there is room for; False where another came under its key meanwhile."""
        entry = Unfinished.of(job, tenant.account)
        await self._require_room(tenant, len(request))
        await self._unfinished.add(entry)  # first: what is not in the list is never taken up
        is_accepted = await self._stored(tenant).accept(job, request, ended_key=ended_key)
        if not is_accepted:
            await self._unfinished.remove(entry)
        return is_accepted

    async def _require_room(self, tenant: Tenant, num_bytes: int) -> None:
        """Refuse another job, without a word of how many others have."""
        async with self._calls("list"):
            unfinished = await self._unfinished.all()
        num_own = sum(entry.account == tenant.account for entry in unfinished)
        if num_own >= MAX_OWN_UNFINISHED_JOBS:
            raise Overloaded(f"{num_own} of your jobs are unfinished, and the limit is {MAX_OWN_UNFINISHED_JOBS}")
        if len(unfinished) >= MAX_UNFINISHED_JOBS:
            raise Overloaded(f"the server has as many unfinished jobs as it takes, which is {MAX_UNFINISHED_JOBS}")
        if sum(entry.num_bytes for entry in unfinished) + num_bytes > self._max_bytes:
            raise Overloaded(f"the requests of unfinished jobs would have over {self._max_bytes} bytes, the limit")
        own_bytes = await self._stored(tenant).size_bytes()
        if own_bytes + num_bytes > self._max_bytes:
            raise Overloaded(
                f"your jobs, and the results of those that ended in the last hour, have {own_bytes} bytes; with this "
                f"one's {num_bytes} they would be over the limit of {self._max_bytes}"
            )
