"""Server-sent events (WHATWG HTML, section 9.2) as OpenAI's clients read them."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from server.core.receipts import Stopwatch
from server.errors import ServiceError
from server.http.answers.errors import error_detail
from server.http.answers.receipts import headers
from server.http.answers.waiting import unless_disconnected
from server.http.schemas.errors import ErrorResponse

# for OpenAPI, as its version 3.2 describes a stream and FastAPI's own streams do already
CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "properties": {"data": {"type": "string", "description": "A chunk as JSON, or [DONE] at the end."}},
            "required": ["data"],
        }
    }
}


Chunk = str | tuple[str, str]  # JSON, and before it the event's name where events have one


class Sendable(Protocol):
    """What may be sent whole or in chunks."""

    async def whole(self) -> Any: ...

    def chunks(self) -> AsyncGenerator[Chunk]: ...


async def answered(
    request: Request, response: Response, watch: Stopwatch, work: Awaitable[Sendable], *, is_stream: bool
) -> Any:
    """The answer that `work` prepares, as the request wants it, with its times in the headers."""
    answer = await unless_disconnected(request, work)
    if is_stream:
        stream = await streamed(request, answer.chunks())
        stream.headers.update(headers(watch))
        return stream
    whole = await unless_disconnected(request, answer.whole())
    response.headers.update(headers(watch))
    return whole


async def streamed(request: Request, chunks: AsyncGenerator[Chunk]) -> StreamingResponse:
    """A stream of JSON texts and then `[DONE]`.

    The first is awaited before there is a response, so that a refusal is still a status; an error after it is an event.
    """
    first = await unless_disconnected(request, anext(chunks))
    return StreamingResponse(_events(first, chunks), media_type="text/event-stream")


async def _events(first: Chunk, rest: AsyncGenerator[Chunk]) -> AsyncIterator[str]:
    async with aclosing(rest):
        yield _event(first)
        try:
            async for chunk in rest:
                yield _event(chunk)
        except ServiceError as error:
            yield _event(ErrorResponse(error=error_detail(error)).model_dump_json())
    yield _event("[DONE]")


def _event(chunk: Chunk) -> str:
    if isinstance(chunk, str):
        return f"data: {chunk}\n\n"
    name, data = chunk
    return f"event: {name}\ndata: {data}\n\n"
