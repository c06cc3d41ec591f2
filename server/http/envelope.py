"""Errors as the client gets them: a status, and OpenAI's envelope."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.errors import Internal, InvalidRequest, Overloaded, QuotaReached, ServiceError, SummaryNotFound
from server.http import request_id
from server.http.answers.callers import bearer, error_headers
from server.http.answers.errors import CLIENT, RATE, SERVER, error_detail, status_of
from server.http.schemas.errors import ErrorDetail, ErrorResponse
from server.http.schemas.openai import CONTENT_PARTS

RETRY_AFTER_SECONDS = {429: "1", 503: "5"}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 429: Overloaded.code}
SHOWN_CHARACTERS = 60  # of a value that is refused, in the error
NAMED_BY_CLIENTS = frozenset({"metadata", "logit_bias"})  # fields with names in them that need not be identifiers
OPENAI_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/models")
RESPONSES = re.compile(r"(/v1)?/responses(/|$)")
CLIENT_LEFT = 499  # nginx's status for it; nobody is there to read it


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of a handler, of FastAPI and of Starlette in OpenAI's envelope."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        detail = error_detail(error)
        if isinstance(error, SummaryNotFound) and request.app.state.core.access is None and bearer(request.headers):
            detail.message += " among this bearer token's: each has summaries of its own, and so have calls without one"
        return _answer(_status(request, status_of(error)), detail, error_headers(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        status, detail = validation_detail(error)
        return _answer(_status(request, status), detail)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.__cause__ is not None and (unread := _unread_envelope(error.__cause__)):
            return unread
        detail = refusal_detail(error)
        if error.status_code in (404, 405):
            allowed = (error.headers or {}).get("Allow")
            other = f"; it takes {allowed}" if allowed else ""
            detail.message = f"there is no {request.method} {request.url.path}{other}; /docs lists what there is"
        return _answer(error.status_code, detail, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(Exception)
    async def defect(request: Request, _: Exception) -> Response:
        return _envelope(
            500,
            "the server has failed on this request; its log says more",
            code=Internal.code,
            kind=SERVER,
            headers=request_id.headers(request.scope),
        )


def _status(request: Request, status: int) -> int:
    """What OpenAI's routes answer: its clients know 400 as the request's fault, where others tell more."""
    path = request.url.path
    if RESPONSES.match(path):
        return 400 if status in (409, 413, 422) else status  # 409 would have clients try again
    return 400 if path.startswith(OPENAI_ROUTES) and status in (413, 422) else status


def _unread_envelope(cause: BaseException) -> Response | None:
    """What kept the parser from a body, apart from its grammar; None where something else went wrong."""
    if isinstance(cause, UnicodeDecodeError):
        message = f"the body is not {cause.encoding.upper()} text: {cause.reason} at byte {cause.start}"
    elif isinstance(cause, RecursionError):
        message = "the body's lists and objects are nested too deeply to be read"
    elif found := re.search(r"value has (\d+) digits", str(cause)):  # Python's words for an integer
        message = f"a number has {found[1]} digits; the limit is {sys.get_int_max_str_digits()}"
    else:
        return None
    return _envelope(400, message, code="invalid_json")


def refusal_detail(error: HTTPException) -> ErrorDetail:
    """The words of what refused a request before its handler: middleware, or the reader of its JSON."""
    kind = RATE if error.status_code == 429 else CLIENT
    code = HTTP_CODES.get(error.status_code, InvalidRequest.code)
    return ErrorDetail(message=str(error.detail), type=kind, param=None, code=code)


def validation_detail(error: RequestValidationError) -> tuple[int, ErrorDetail]:
    """The status and the words for a body that is not what it should be."""
    first = error.errors()[0]
    kind, location = first["type"], first["loc"]
    if kind == "json_invalid" and len(location) == 2 and isinstance(location[1], int):  # else it is a form's field
        message = f"the body is not JSON: {first['ctx']['error']} at character {location[-1]}"
        return 400, ErrorDetail(message=message, type=CLIENT, param=None, code="invalid_json")
    message, param = _said(first), None
    if location == ("body",) and kind in ("model_attributes_type", "missing"):
        message = "the body must be a JSON object, sent as Content-Type: application/json"
    elif param := _param(location, kind):
        message = f"{param}: {message}"
    elif named := re.match(r"`(\w+)`", message):  # fields that do not go together: the one the message begins with
        param = named[1]
    return 422, ErrorDetail(message=message, type=CLIENT, param=param or None, code="validation_error")


def _param(location: tuple[int | str, ...], kind: str) -> str:
    """The field at fault; pydantic names the member of a union too, by its tag, which is no field."""
    place, *parts = location
    if place == "header":
        return str(parts[0])
    named = [_short(str(part)) for index, part in enumerate(parts) if _is_named(parts, index, kind)]
    return ".".join([*named, "type"] if kind.startswith("union_tag") else named)


def _is_named(parts: list[int | str], index: int, kind: str) -> bool:
    part = parts[index]
    is_unknown = kind == "extra_forbidden" and index == len(parts) - 1
    if isinstance(part, int) or is_unknown or (index > 0 and parts[index - 1] in NAMED_BY_CLIENTS):
        return True
    is_tag = index > 1 and parts[index - 2] == CONTENT_PARTS
    return part.isidentifier() and not is_tag


def _said(error: dict[str, Any]) -> str:
    """What is wrong, in pydantic's words where they are plain, and the value or its length."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    message = str(error["msg"]).removeprefix("Value error, ")
    if message.startswith("Expected UploadFile"):
        return "should be a file, not a plain field of the form"
    if kind == "string_unicode":
        return f"an unpaired surrogate is no character: {_shown(value)}"
    if kind == "union_tag_not_found":
        return "Field required"
    if kind == "union_tag_invalid":
        return f"Input should be one of {context['expected_tags']}, not {_shown(context['tag'])}"
    if kind in ("missing", "extra_forbidden", "unknown_item") or "error" in context:
        return message
    message = re.sub(r" after validation, not (\d+|more)$|, unable to .*$", "", message)
    if kind.endswith("too_long") or kind == "too_short":
        if isinstance(value, str):  # that was checked by a function of ours, too, is a "value" with "items"
            message = re.sub(r"^Value (.*) item", r"String \1 character", message)
        return f"{message}; it has {len(value)}"
    return f"{message}, not {_shown(value)}"


def _shown(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, str):
        return repr(_short(value))
    if value is None or isinstance(value, bool | int | float):
        return _short(json.dumps(value))
    return "a list" if isinstance(value, list) else "an object"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _envelope(
    status: int,
    message: str,
    *,
    code: str,
    kind: str = CLIENT,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return _answer(status, ErrorDetail(message=message, type=kind, param=param, code=code), headers)


def _answer(status: int, detail: ErrorDetail, headers: Mapping[str, str] | None = None) -> Response:
    is_worth_it = status in RETRY_AFTER_SECONDS and detail.code != QuotaReached.code
    retry = {"Retry-After": RETRY_AFTER_SECONDS[status]} if is_worth_it else {}
    body = ErrorResponse(error=detail).model_dump()
    return JSONResponse(body, status_code=status, headers={**retry, **(headers or {})})
