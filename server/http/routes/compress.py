"""Documents in: as JSON, one or many, as an uploaded file, whole or with progress."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from starlette.routing import Match
from starlette.types import Scope

from server.core.documents.document import Compressed
from server.core.documents.progress import Report
from server.errors import InvalidRequest, ServiceError
from server.http.answers import sse
from server.http.answers.compression import CompressAnswer, answered, one, work_of
from server.http.answers.dependencies import IdInPath, WithCore, WithTenant
from server.http.answers.documents import document
from server.http.answers.errors import possible_errors
from server.http.routing import Route
from server.http.schemas import summaries as schemas

FORM = {"schema": schemas.Upload.model_json_schema()}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CompressAnswer,
        "description": "The summary was there already.",
        "content": sse.CONTENT,
    }
}


class FormRoute(Route):
    """A route for forms only; a path's other bodies are another route's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if not content_type.lower().startswith(b"multipart/form-data"):
            return Match.NONE, {}
        return super().matches(scope)


form_router = APIRouter(responses=possible_errors(), route_class=FormRoute)
router = APIRouter(route_class=Route, responses=possible_errors())


@form_router.post("/compress", status_code=201, response_model=None, include_in_schema=False)
async def compress_file(
    body: Annotated[schemas.Upload, Form()], request: Request, core: WithCore, tenant: WithTenant
) -> Any:
    """As `compress`, of uploaded UTF-8 texts."""
    services = core.models.named(body.model)
    num_files = len(body.file)
    if body.metadata is not None and len(body.metadata) != num_files:
        raise InvalidRequest(
            f"the form has {num_files} files and {len(body.metadata)} times metadata; give it once for each file, in "
            "their order",
            param="metadata",
        )
    if body.parent is not None and num_files > 1:
        raise InvalidRequest(f"the form has {num_files} files, and a parent is continued by one", param="parent")
    documents = [
        document(
            body,
            tenant,
            text=await _text(file, "file" if num_files == 1 else f"file.{number}"),
            parent=body.parent,
            metadata=None if body.metadata is None else body.metadata[number],
        )
        for number, file in enumerate(body.file)
    ]
    if num_files == 1:
        return await answered(request, services, one(documents[0], services), is_stream=body.stream)

    async def run(report: Report | None) -> list[Compressed]:
        try:
            return await services.intake.many(documents, report)
        except ServiceError as error:
            if error.param is not None:  # the core's word for them
                error.param = error.param.replace("documents.", "file.", 1).removesuffix(".text")
            raise

    return await answered(request, services, run, is_list=True, is_stream=body.stream)


async def _text(file: UploadFile, param: str) -> str:
    """What a file says, UTF-8; InvalidRequest where it is empty or something else."""
    data = await file.read()
    if not data:
        raise InvalidRequest("the file is empty: it has 0 bytes", param=param)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the file is not UTF-8 text: {error.reason} at byte {error.start}", param=param) from None


@router.post(
    "/compress",
    status_code=201,
    response_model=CompressAnswer,
    responses=ANSWERS,
    openapi_extra={"requestBody": {"content": {"multipart/form-data": FORM}}},
    tags=["summaries"],
)
async def compress(body: schemas.CompressRequest, request: Request, core: WithCore, tenant: WithTenant) -> Any:
    """Compress a document into summary vectors, store them, and return their id.

    The id is a hash of the model and the document: the same text gives the same id, and is computed once. Several
    `documents` are answered as a list. With `stream`, server-sent events: progress for each segment, the answer, then
    `[DONE]`. Files come as a form: one is answered as `text` is, several as `documents` are.
    """
    services = core.models.named(body.model)
    run = work_of(body, services, tenant)
    return await answered(request, services, run, is_list=body.documents is not None, is_stream=body.stream)


@router.post(
    "/summaries/{summary_id}/append",
    status_code=201,
    response_model=CompressAnswer,
    responses=ANSWERS,
    tags=["summaries"],
)
async def append(
    summary_id: IdInPath, body: schemas.AppendRequest, request: Request, core: WithCore, tenant: WithTenant
) -> Any:
    """Compress a text that continues a stored document; the new summary stands for both."""
    services = core.models.named(body.model)
    own = document(body, tenant, text=body.text, parent=summary_id, metadata=body.metadata)
    return await answered(request, services, one(own, services), is_stream=body.stream)
