"""Compression as a job: asked for now, fetched later."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request

from server.core.callers import audit
from server.core.callers.visit import note
from server.core.core import Core
from server.core.documents.progress import Report
from server.core.jobs.job import Job
from server.core.jobs.runner import Task, Work
from server.errors import InvalidRequest
from server.http.answers import compression
from server.http.answers.callers import visit_of
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import error_detail, possible_errors
from server.http.routing import Route, read_large_json
from server.http.schemas import jobs as schemas
from server.http.schemas.summaries import CompressRequest
from server.limits import MAX_IDEMPOTENCY_KEY

router = APIRouter(route_class=Route, responses=possible_errors(), tags=["jobs"])
JobId = Annotated[str, Path(description="A job's id, as POST /jobs/compress gave it.")]


@router.post("/jobs/compress", status_code=202)
async def start_job(
    body: CompressRequest,
    request: Request,
    core: WithCore,
    tenant: WithTenant,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=MAX_IDEMPOTENCY_KEY)] = None,
) -> schemas.JobResponse:
    """Compress without waiting; the body is that of /compress.

    The same Idempotency-Key gives the same job, for an hour after its end. The request, with its texts, is in the store
    until then: every server on it tells how the job is, and one that ends leaves it to another.
    """
    if body.stream:
        raise InvalidRequest("a job has no stream: GET /jobs/{id} tells its progress", param="stream")
    core.models.named(body.model)  # refused now where there is none
    visit = visit_of(request.scope)
    caller = None if visit is None else visit.account.key.name
    job = await core.jobs.start(tenant, await request.body(), caller=caller, idempotency_key=idempotency_key)
    note("started", job.id)
    return _described(job)


@router.get("/jobs/{job_id}")
async def get_job(job_id: JobId, core: WithCore, tenant: WithTenant) -> schemas.JobResponse:
    """How far a job is, and its result when it is done."""
    return _described(await core.jobs.get(tenant, job_id))


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: JobId, core: WithCore, tenant: WithTenant) -> schemas.JobResponse:
    """Cancel a job; one that has ended stays as it is."""
    job = await core.jobs.cancel(tenant, job_id)
    note("cancelled", job.id)
    return _described(job)


def work_of(core: Core, reading: asyncio.Lock) -> Work:
    """What is done for a job, its request read again: whoever accepted it may be another server.

    Args:
        reading: held while a large body is read.
    """

    async def work(task: Task, report: Report) -> Any:
        body = CompressRequest.model_validate(await read_large_json(reading, task.request))
        services = core.models.named(body.model)
        run = compression.work_of(body, services, task.tenant, waits=True)
        account = None if core.access is None else core.access.named(task.job.caller)
        with audit.job(account, task.job.id):
            done = await run(report)
        answer = compression.answer_of(done, services, is_list=body.documents is not None)
        return answer.model_dump(mode="json")

    return work


def _described(job: Job) -> schemas.JobResponse:
    progress = schemas.JobProgress(
        segments_done=0 if job.progress is None else job.progress.done,
        segments_total=None if job.progress is None else job.progress.total,
    )
    return schemas.JobResponse(
        id=job.id,
        status=job.status,
        progress=progress,
        result=job.result,
        error=None if job.failure is None else error_detail(job.failure.error),
        created=int(job.created),
    )
