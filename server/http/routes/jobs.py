"""Compression as a job: asked for now, fetched later."""

import asyncio
import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request

from server.core.callers import audit
from server.core.callers.visit import note
from server.core.documents.progress import Report
from server.core.jobs import Job
from server.errors import InvalidRequest
from server.http.answers.callers import visit_of
from server.http.answers.compression import CompressAnswer, answer_of, work_of
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import error_detail, possible_errors
from server.http.held import held_of
from server.http.routing import Route
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

    The same Idempotency-Key gives the same job, for an hour after its end. Jobs do not outlive the server; what they
    have computed is stored, and the same request goes on there.
    """
    if body.stream:
        raise InvalidRequest("a job has no stream: GET /jobs/{id} tells its progress", param="stream")
    services = core.models.named(body.model)
    run = work_of(body, services, tenant, waits=True)
    visit = visit_of(request.scope)

    async def work(report: Report) -> CompressAnswer:
        with audit.job(visit, lambda: job.id):
            return answer_of(await run(report), services, is_list=body.documents is not None)

    digest = await asyncio.to_thread(lambda data: hashlib.sha256(data).digest(), await request.body())
    held = held_of(request.scope)
    job = core.jobs.start(work, digest=digest, idempotency_key=idempotency_key, owner=tenant.account, hold=held.keep)
    note("started", job.id)
    return _described(job)


@router.get("/jobs/{job_id}")
async def get_job(job_id: JobId, core: WithCore, tenant: WithTenant) -> schemas.JobResponse:
    """How far a job is, and its result when it is done."""
    return _described(core.jobs.get(job_id, owner=tenant.account))


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: JobId, core: WithCore, tenant: WithTenant) -> schemas.JobResponse:
    """Cancel a job; one that has ended stays as it is."""
    job = await core.jobs.cancel(job_id, owner=tenant.account)
    note("cancelled", job.id)
    return _described(job)


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
        error=None if job.error is None else error_detail(job.error),
        created=int(job.created),
    )
