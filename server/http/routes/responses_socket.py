"""WebSocket mode of Open Responses (openresponses.org, 2026-04-24): one response at a time, its events as frames."""

import asyncio
import logging
import time
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.websockets import WebSocketDisconnect

from server.core.core import Core
from server.core.receipts import Stopwatch
from server.core.responses.records import Turn
from server.core.tenant import Tenant
from server.errors import InvalidRequest, NotReady, ServiceError
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import error_detail, status_of
from server.http.answers.responding import respond
from server.http.answers.responses import Response
from server.http.envelope import validation_detail
from server.http.schemas.errors import ErrorDetail
from server.http.schemas.responses import ResponseRequest

LONGEST_SECONDS = 3600.0  # of a connection, as the specification has it
CREATE = "response.create"
ENDPOINT = "/v1/responses"
NOT_HERE = ("stream", "stream_options", "background")

logger = logging.getLogger(__name__)

router = APIRouter()


@router.websocket("/v1/responses")
@router.websocket("/responses")
async def respond_over_socket(socket: WebSocket, core: WithCore, tenant: WithTenant) -> None:
    """Answer `response.create` frames in turn; the last response of a connection can be gone on from, stored or not."""
    await socket.accept()
    connection = _Connection(socket, core, tenant)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            while True:
                await connection.turn(await socket.receive_text())
    except TimeoutError:
        detail = ErrorDetail(
            message=f"a connection lasts for {LONGEST_SECONDS:g} s; open another",
            type="invalid_request_error",
            param=None,
            code="websocket_connection_limit_reached",
        )
        await connection.refuse(400, detail)
        await socket.close()
    except (WebSocketDisconnect, KeyError):  # KeyError: a frame of bytes
        return


class _Connection:
    def __init__(self, socket: WebSocket, core: Core, tenant: Tenant) -> None:
        self._socket = socket
        self._core = core
        self._tenant = tenant
        self._last: dict[str, Turn] = {}  # by its id the last response, where it is not stored

    async def turn(self, frame: str) -> None:
        """Answer one frame, with the events of a response or with an error."""
        named: str | None = None
        started = time.monotonic()
        status = 200
        try:
            body = _body(frame)
            named = body.previous_response_id
            response = await self._response(body)
            is_whole = await self._sent(response)
        except RequestValidationError as error:
            status = 400
            await self._failed(named, status, validation_detail(error)[1])
        except ServiceError as error:
            status = status_of(error)
            await self._failed(named, status, error_detail(error))
        else:
            if not is_whole and named is not None:
                self._last.pop(named, None)
        self._core.metrics.requests.labels(endpoint=ENDPOINT, status=status).inc()
        logger.info("WEBSOCKET %s %d %.3f s", ENDPOINT, status, time.monotonic() - started)

    async def refuse(self, status: int, detail: ErrorDetail) -> None:
        await self._send({"type": "error", "status": status, "error": detail.model_dump()})

    async def _response(self, body: ResponseRequest) -> Response:
        if self._core.is_stopping.is_set():
            raise NotReady("the server is stopping")
        return await respond(self._core, self._tenant, body, Stopwatch(), known=self._last, keep=self._keep)

    def _keep(self, turn: Turn) -> None:
        self._last = {turn.id: turn}

    async def _sent(self, response: Response) -> bool:
        """Send the events, and say whether the response has come to its end."""
        async with aclosing(response.events()) as events:
            async for event in events:
                await self._send(event)
        return response.turn is not None

    async def _failed(self, named: str | None, status: int, detail: ErrorDetail) -> None:
        """Tell of a failure; the response that it went on from is forgotten here."""
        if named is not None:
            self._last.pop(named, None)
        await self.refuse(status, detail)

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send_text(to_json(frame).decode())


def _body(frame: str) -> ResponseRequest:
    """A frame's request; InvalidRequest or RequestValidationError where it is none."""
    try:
        given = from_json(frame)
    except ValueError as error:
        raise InvalidRequest(f"the frame is no JSON: {error}") from None
    if not isinstance(given, dict) or given.pop("type", None) != CREATE:
        raise InvalidRequest(f"a frame is a JSON object whose `type` is {CREATE!r}", param="type")
    for name in NOT_HERE:
        if given.get(name) is not None:
            raise InvalidRequest(f"`{name}` is not for WebSockets: frames are events of a stream", param=name)
    try:
        return ResponseRequest.model_validate({key: value for key, value in given.items() if key not in NOT_HERE})
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
