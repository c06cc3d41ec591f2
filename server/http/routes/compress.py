"""Documents in: as JSON, one or many, as an uploaded file, whole or with progress."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from server.core.documents.compression import Compressed
from server.core.documents.intake import Document
from server.core.documents.progress import Progress, Report
from server.core.services import Services
from server.errors import InvalidRequest
from server.http.answers import sse
from server.http.answers.receipts import compressed_headers
from server.http.answers.summaries import IdInPath, With, compressed, errors
from server.http.answers.waiting import unless_disconnected
from server.http.schemas import summaries as schemas

Answer = schemas.CompressResponse | schemas.CompressedList
Run = Callable[[Report | None], Awaitable[list[Compressed]]]

FORM = {"schema": schemas.Upload.model_json_schema()}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Answer,
        "description": "The summary was there already.",
        "content": sse.CONTENT,
    }
}


class FormRoute(APIRoute):
    """A route for forms only; a path's other bodies are another route's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if not content_type.lower().startswith(b"multipart/form-data"):
            return Match.NONE, {}
        return super().matches(scope)


form_router = APIRouter(responses=errors(), route_class=FormRoute)
router = APIRouter(responses=errors())


@form_router.post("/compress", status_code=201, response_model=None, include_in_schema=False)
async def compress_file(body: Annotated[schemas.Upload, Form()], request: Request, served: With) -> Any:
    """As `compress`, of an uploaded UTF-8 text."""
    files = (await request.form()).getlist("file")
    if len(files) != 1:
        raise InvalidRequest(f"the form has {len(files)} files; one is compressed at a time", param="file")
    data = await body.file.read()
    if not data:
        raise InvalidRequest("the file is empty: it has 0 bytes", param="file")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the file is not UTF-8 text: {error.reason} at byte {error.start}", param="file"
        ) from None
    document = Document(
        text=text,
        parent=body.parent,
        ttl_seconds=body.ttl_seconds,
        metadata=body.metadata,
        keep_text=body.keep_text,
        measures=body.measure,
    )
    return await _answered(request, served, _one(document, served), is_stream=body.stream)


@router.post(
    "/compress",
    status_code=201,
    response_model=Answer,
    responses=ANSWERS,
    openapi_extra={"requestBody": {"content": {"multipart/form-data": FORM}}},
    tags=["summaries"],
)
async def compress(body: schemas.CompressRequest, request: Request, served: With) -> Any:
    """Compress a document into summary vectors, store them, and return their id.

    The id is a hash of the model and the document: the same text gives the same id, and is computed once. Several
    `documents` are answered as a list. With `stream`, server-sent events: progress for each segment, the answer, then
    `[DONE]`. An uploaded file comes as a form.
    """
    return await _answered(
        request, served, work_of(body, served), is_list=body.documents is not None, is_stream=body.stream
    )


@router.post(
    "/summaries/{summary_id}/append", status_code=201, response_model=Answer, responses=ANSWERS, tags=["summaries"]
)
async def append(summary_id: IdInPath, body: schemas.AppendRequest, request: Request, served: With) -> Any:
    """Compress a text that continues a stored document; the new summary stands for both."""
    document = Document(
        body.text,
        parent=summary_id,
        ttl_seconds=body.ttl_seconds,
        metadata=body.metadata,
        keep_text=body.keep_text,
        measures=body.measure,
    )
    return await _answered(request, served, _one(document, served), is_stream=body.stream)


def work_of(body: schemas.CompressRequest, served: Services) -> Run:
    """What a request asks for, to be run once."""
    if body.documents is None:
        document = Document(
            body.text,
            body.token_ids,
            body.parent,
            body.ttl_seconds,
            body.metadata,
            keep_text=body.keep_text,
            measures=body.measure,
        )
        return _one(document, served)
    documents = [
        Document(
            each.text,
            each.token_ids,
            each.parent,
            body.ttl_seconds if each.ttl_seconds is None else each.ttl_seconds,
            each.metadata,
            keep_text=each.keep_text or body.keep_text,
            measures=each.measure or body.measure,
        )
        for each in body.documents
    ]
    return lambda report: served.intake.many(documents, report)


def answer_of(done: list[Compressed], served: Services, *, is_list: bool) -> Answer:
    answers = [compressed(each, served) for each in done]
    return schemas.CompressedList(data=answers) if is_list else answers[0]


def _one(document: Document, served: Services) -> Run:
    async def run(report: Report | None) -> list[Compressed]:
        return [await served.intake.one(document, report)]

    return run


async def _answered(
    request: Request, served: Services, run: Run, *, is_list: bool = False, is_stream: bool
) -> Response:
    started = time.monotonic()
    if is_stream:
        return await sse.streamed(request, _chunks(run, lambda done: answer_of(done, served, is_list=is_list)))
    done = await unless_disconnected(request, run(None))
    return Response(
        answer_of(done, served, is_list=is_list).model_dump_json(),
        status_code=201 if any(each.is_new for each in done) else 200,
        media_type="application/json",
        headers=compressed_headers(done, started),
    )


async def _chunks(run: Run, answer: Callable[[list[Compressed]], Answer]) -> AsyncGenerator[str]:
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
