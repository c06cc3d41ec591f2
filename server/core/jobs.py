"""Long work that a client comes back for.

Jobs live in this process. At a restart they are gone, and their ids are unknown; the segments made so far are in the
store, and the same request goes on where it stopped.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from server.core.documents.progress import Progress, Report
from server.errors import IdempotencyMismatch, Internal, JobNotFound, Overloaded, ServiceError
from server.limits import MAX_FINISHED_JOBS, MAX_OWN_UNFINISHED_JOBS, MAX_RUNNING_JOBS, MAX_UNFINISHED_JOBS

Status = Literal["queued", "running", "done", "failed", "cancelled"]

KEPT_SECONDS = 3600.0  # a finished job, for whoever asks for its result


@dataclass(eq=False)
class Job:
    """`digest` is of the request; `result` of a job that is done, `error` of one that failed; `on_end` called once.

    `owner`: whose it is.
    """

    owner: str
    idempotency_key: tuple[str, str] | None
    digest: bytes
    id: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex}", init=False)
    created: float = field(default_factory=time.time, init=False)
    status: Status = field(default="queued", init=False)
    progress: Progress | None = field(default=None, init=False)
    result: Any = field(default=None, init=False)
    error: ServiceError | None = field(default=None, init=False)
    finished_at: float | None = field(default=None, init=False)
    task: "asyncio.Task[None] | None" = field(default=None, init=False)
    on_end: Callable[[], None] | None = None

    def report(self, progress: Progress) -> None:
        self.progress = progress


class Jobs:
    """Starts jobs, a few at a time, and remembers them for an hour after their end."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], Job] = {}
        self._gate = asyncio.Semaphore(MAX_RUNNING_JOBS)

    def start(
        self,
        work: Callable[[Report], Awaitable[Any]],
        *,
        digest: bytes,
        idempotency_key: str | None = None,
        owner: str = "",
        hold: Callable[[], Callable[[], None]] | None = None,
    ) -> Job:
        """A job for this work, or the one that was started under the same key and has not failed or been cancelled.

        Args:
            owner: whose job it is; others do not see it, and their equal keys are other keys.
            hold: called where the job is a new one; what it gives is called when the job has ended.

        Raises:
            IdempotencyMismatch: the key was used for a request of another digest. Overloaded: too many unfinished ones.
        """
        self._forget_old()
        key = None if idempotency_key is None else (owner, idempotency_key)
        known = None if key is None else self._by_key.get(key)
        if known is not None:
            if known.digest != digest:
                raise IdempotencyMismatch(f"the Idempotency-Key {idempotency_key!r} was used for another request")
            if known.status not in ("failed", "cancelled"):
                return known
        self._require_room(owner)
        job = Job(owner, key, digest, on_end=None if hold is None else hold())
        self._jobs[job.id] = job
        if key is not None:
            self._by_key[key] = job
        job.task = asyncio.create_task(self._run(job, work))
        return job

    def _require_room(self, owner: str) -> None:
        """Refuse another job, without a word of how many others have."""
        unfinished = [job.owner for job in self._jobs.values() if job.finished_at is None]
        num_own = unfinished.count(owner)
        if num_own >= MAX_OWN_UNFINISHED_JOBS:
            raise Overloaded(f"{num_own} of your jobs are unfinished, and the limit is {MAX_OWN_UNFINISHED_JOBS}")
        if len(unfinished) >= MAX_UNFINISHED_JOBS:
            raise Overloaded(f"the server has as many unfinished jobs as it takes, which is {MAX_UNFINISHED_JOBS}")

    def get(self, job_id: str, *, owner: str = "") -> Job:
        """A job by its id; JobNotFound where its owner has none, or none any more."""
        self._forget_old()
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise JobNotFound(f"there is no job {job_id!r}", param="id")
        return job

    async def cancel(self, job_id: str, *, owner: str = "") -> Job:
        """End a job; one that has ended stays as it is. JobNotFound as `get`."""
        job = self.get(job_id, owner=owner)
        await self._end(job)
        return job

    async def close(self) -> None:
        """End all jobs; the last call."""
        await asyncio.gather(*(self._end(job) for job in self._jobs.values()))

    async def _end(self, job: Job) -> None:
        if job.finished_at is None and job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
            self._finish(job, "cancelled")  # a task that was cancelled before it ran has not done so

    async def _run(self, job: Job, work: Callable[[Report], Awaitable[Any]]) -> None:
        try:
            async with self._gate:
                job.status = "running"
                job.result = await work(job.report)
        except ServiceError as error:
            job.error = _without_frames(error)
            self._finish(job, "failed")
        except asyncio.CancelledError:
            self._finish(job, "cancelled")
            raise
        except BaseException:
            job.error = Internal("the server has failed on this job; its log says more")
            self._finish(job, "failed")
            raise
        else:
            self._finish(job, "done")

    def _finish(self, job: Job, status: Status) -> None:
        if job.finished_at is None:
            job.status, job.finished_at = status, time.monotonic()
            if job.on_end is not None:
                job.on_end()

    def _forget_old(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        finished = [job for job in self._jobs.values() if job.finished_at is not None]
        finished.sort(key=lambda job: job.finished_at or 0.0)
        num_surplus = max(0, len(finished) - MAX_FINISHED_JOBS)
        for place, job in enumerate(finished):
            if place >= num_surplus and (job.finished_at or 0.0) >= oldest:
                break
            del self._jobs[job.id]
            if job.idempotency_key is not None and self._by_key[job.idempotency_key] is job:
                del self._by_key[job.idempotency_key]


def _without_frames(error: ServiceError) -> ServiceError:
    """An error that is kept: the frames it came through would keep the job's documents."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
