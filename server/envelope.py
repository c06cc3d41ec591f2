"""Errors as the client gets them: a status, and OpenAI's envelope."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.errors import (
    BodyTooLarge,
    EngineFailed,
    IdempotencyMismatch,
    Internal,
    InvalidRequest,
    JobNotFound,
    ModelMismatch,
    ModelNotFound,
    NotReady,
    Overloaded,
    ServiceError,
    StoreExhausted,
    SummaryNotFound,
    TooLong,
)
from server.schemas import native as schemas

STATUS: dict[type[ServiceError], int] = {
    InvalidRequest: 400,
    SummaryNotFound: 404,
    ModelNotFound: 404,
    JobNotFound: 404,
    ModelMismatch: 409,
    IdempotencyMismatch: 422,
    TooLong: 413,
    BodyTooLarge: 413,
    EngineFailed: 424,
    Overloaded: 429,
    Internal: 500,
    NotReady: 503,
    StoreExhausted: 507,
}
RETRY_AFTER_SECONDS = {429: "1", 503: "5"}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: BodyTooLarge.code}
SHOWN_CHARACTERS = 80  # of a value that is refused, in the error
CLIENT_LEFT = 499  # nginx's status for it; nobody is there to read it


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of a handler, of FastAPI and of Starlette in OpenAI's envelope."""

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> Response:
        return _envelope(STATUS[type(error)], error.message, code=error.code, param=error.param, kind=error.kind)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        return _validation_envelope(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = HTTP_CODES.get(error.status_code, InvalidRequest.code)
        message = str(error.detail)
        if error.status_code in (404, 405):
            allowed = (error.headers or {}).get("Allow")
            other = f"; it takes {allowed}" if allowed else ""
            message = f"there is no {request.method} {request.url.path}{other}; /docs lists what there is"
        return _envelope(error.status_code, message, code=code, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(Exception)
    async def defect(_: Request, __: Exception) -> Response:
        return _envelope(
            500, "the server has failed on this request; its log says more", code=Internal.code, kind=Internal.kind
        )


def _validation_envelope(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _envelope(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    if first["loc"] == ("body",) and first["type"] in ("model_attributes_type", "missing"):
        message = "the body must be a JSON object, sent as Content-Type: application/json"
        return _envelope(422, message, code="validation_error")
    message = first["msg"].removeprefix("Value error, ") + _shown(first)
    if param := _param(first["loc"]):
        return _envelope(422, f"{param}: {message}", code="validation_error", param=param)
    named = re.match(r"`(\w+)`", message)  # fields that do not go together: the one the message begins with
    return _envelope(422, message, code="validation_error", param=named and named[1])


def _param(location: tuple[int | str, ...]) -> str:
    """The field at fault; pydantic names the member of a union too, by its type, which the client does not know."""
    place, *parts = location
    if place == "header":
        return str(parts[0])
    return ".".join(str(part) for part in parts if isinstance(part, int) or str(part).isidentifier())


def _shown(error: dict[str, Any]) -> str:
    """The value, where a limit is named and it is short enough to be read."""
    value = error["input"]
    if not error.get("ctx") or "error" in error["ctx"] or not isinstance(value, int | float | str):
        return ""
    if isinstance(value, str) and len(value) > SHOWN_CHARACTERS:
        return f"; it has {len(value)}"
    return f", not {value!r}"


def _envelope(
    status: int,
    message: str,
    *,
    code: str,
    kind: str = InvalidRequest.kind,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    detail = schemas.ErrorDetail(message=message, type=kind, param=param, code=code)
    retry = {"Retry-After": RETRY_AFTER_SECONDS[status]} if status in RETRY_AFTER_SECONDS else {}
    body = schemas.ErrorResponse(error=detail).model_dump()
    return JSONResponse(body, status_code=status, headers={**retry, **(headers or {})})
