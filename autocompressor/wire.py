"""Between calls and httpx: a request's arguments, the events of a stream, and what went wrong."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import httpx

from autocompressor.calls import SAFETENSORS, Call
from autocompressor.results import AutocompressorError, Progress, json_reader

T = TypeVar("T")

MAX_PAUSE_SECONDS = 30.0
DONE = "[DONE]"


class Events(Generic[T]):
    """The events of one answer, as they come; an error among them is raised."""

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._last: bytes | None = None
        self._is_done = False

    def take(self, data: str) -> bytes | None:
        """The JSON of an event, if it has one; that of progress goes to who listens for it."""
        if data == DONE:
            self._is_done = True
            return None
        progress = json_reader(self._progress)(data.encode())
        if progress is None:
            self._last = data.encode()
            return self._last
        if self._call.on_progress is not None:
            self._call.on_progress(progress)
        return None

    @staticmethod
    def _progress(event: Mapping[str, Any]) -> Progress | None:
        """What the event says of progress, if that is what it is; raises the error that it may be."""
        if "error" in event:
            raise _as_error(None, event)
        return _as_progress(event) if event.get("object") == "compress.progress" else None

    def require_done(self) -> None:
        if not self._is_done:
            raise AutocompressorError("the server's answer broke off", code="bad_answer")

    def result(self) -> T:
        """What the last event holds."""
        self.require_done()
        if self._last is None:
            raise AutocompressorError("the server's answer has no result", code="bad_answer")
        return self._call.read(self._last)


def _as_progress(event: Mapping[str, Any]) -> Progress:
    segments = event["segments"]
    return Progress(
        segments_done=segments["done"],
        segments_total=segments["total"],
        segments_cached=segments["cached"],
        tokens=event["tokens"],
        vectors=event["vectors"],
        elapsed_seconds=event["elapsed_seconds"],
    )


def headers(api_key: str | None) -> dict[str, str]:
    agent = {"User-Agent": f"autocompressor/{version('autocompressor')}"}
    return agent | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def request(call: Call[Any], model: str | None = None) -> dict[str, Any]:
    """What httpx is to send.

    Args:
        model: which of the server's models is meant, in the body or the query; a deletion is of whichever it is.
    """
    query, named = call.query, {} if model is None else {"model": model}
    if call.method in ("GET", "PUT") and named:
        query = {**(query or {}), **named}
    request = {"method": call.method, "url": call.path, "params": query}
    if isinstance(call.body, bytes):
        return request | {"content": call.body, "headers": {"Content-Type": SAFETENSORS}}
    if call.body is None:
        return request
    try:
        content = json.dumps({**named, **call.body}, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # not a number, or half of a surrogate pair
        raise AutocompressorError(f"the request cannot be written as JSON: {error}", code="invalid_request") from error
    return request | {"content": content, "headers": {"Content-Type": "application/json"}}


def pause_seconds(response: httpx.Response, attempt: int, max_retries: int) -> float:
    """How long to wait until a refused call is sent again; what is refused for good is raised."""
    if response.status_code not in (429, 503) or attempt >= max_retries:
        try:
            body = response.json()
        except ValueError:
            body = {}
        raise _as_error(response, body)
    asked = response.headers.get("Retry-After", "")
    return min(float(asked) if asked.isdecimal() else 0.5 * 2**attempt, MAX_PAUSE_SECONDS)


def _as_error(response: httpx.Response | None, body: Any) -> AutocompressorError:
    """The error of an envelope, or of an answer that has none: a proxy's, another server's."""
    status = None if response is None else response.status_code
    detail = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(detail, Mapping) and "message" in detail:
        message, code, param = detail["message"], str(detail.get("code")), detail.get("param")
        return AutocompressorError(message, code=code, status=status, param=param)
    phrase = "" if response is None else f"{status} {response.reason_phrase}"
    return AutocompressorError(f"the server answered {phrase}", code="bad_answer", status=status)


@contextmanager
def translated(url: httpx.URL) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise AutocompressorError(f"no server answers at {url}: {error}", code="unreachable") from error
    except httpx.TimeoutException as error:
        raise AutocompressorError(f"the server at {url} did not answer in time", code="timeout") from error
    except httpx.TransportError as error:
        raise AutocompressorError(f"the answer of {url} broke off: {error}", code="bad_answer") from error
