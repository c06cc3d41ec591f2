"""Documents of a request compressed: what is to be run, and its answer, whole or with progress."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from fastapi import Request, Response

from server.core.documents.document import Compressed, Document
from server.core.documents.progress import Progress, Report
from server.core.services import Services
from server.core.tenant import Tenant
from server.http.answers import sse
from server.http.answers.documents import compressed, compressed_headers, document
from server.http.answers.waiting import unless_disconnected
from server.http.schemas import summaries as schemas

CompressAnswer = schemas.CompressResponse | schemas.CompressedList
Run = Callable[[Report | None], Awaitable[list[Compressed]]]


def work_of(body: schemas.CompressRequest, services: Services, tenant: Tenant, *, waits: bool = False) -> Run:
    """What a request asks for, to be run once.

    Args:
        waits: a single document waits for room in the engine's line, as several do.
    """
    if body.documents is None:
        own = document(
            body, tenant, text=body.text, token_ids=body.token_ids, parent=body.parent, metadata=body.metadata
        )
        return one(replace(own, waits=waits), services)
    documents = [
        document(
            each,
            tenant,
            within=body,
            text=each.text,
            token_ids=each.token_ids,
            parent=each.parent,
            metadata=each.metadata,
        )
        for each in body.documents
    ]
    return lambda report: services.intake.many(documents, report)


def one(document: Document, services: Services) -> Run:
    async def run(report: Report | None) -> list[Compressed]:
        return [await services.intake.one(document, report)]

    return run


def answer_of(done: list[Compressed], services: Services, *, is_list: bool) -> CompressAnswer:
    answers = [compressed(each, services) for each in done]
    return schemas.CompressedList(data=answers) if is_list else answers[0]


async def answered(
    request: Request, services: Services, run: Run, *, is_list: bool = False, is_stream: bool
) -> Response:
    started = time.monotonic()
    if is_stream:
        return await sse.streamed(request, _chunks(run, lambda done: answer_of(done, services, is_list=is_list)))
    done = await unless_disconnected(request, run(None))
    return Response(
        answer_of(done, services, is_list=is_list).model_dump_json(),
        status_code=201 if any(each.is_new for each in done) else 200,
        media_type="application/json",
        headers=compressed_headers(done, started),
    )


async def _chunks(run: Run, answer: Callable[[list[Compressed]], CompressAnswer]) -> AsyncGenerator[str]:
    """Progress as it comes, then the answer; closing it ends the work."""
    started = time.monotonic()
    reports: asyncio.Queue[Progress | None] = asyncio.Queue()
    task = asyncio.ensure_future(run(reports.put_nowait))
    task.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        while (progress := await reports.get()) is not None:
            yield schemas.CompressProgress(
                segments=schemas.SegmentsProgress(done=progress.done, total=progress.total, cached=progress.cached),
                tokens=progress.tokens,
                vectors=progress.vectors,
                elapsed_seconds=time.monotonic() - started,
            ).model_dump_json()
        yield answer(await task).model_dump_json()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
