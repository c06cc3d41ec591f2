"""WebSocket mode of Open Responses (openresponses.org, 2026-04-24): one response at a time, its events as frames."""

import asyncio
import logging
import time
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect

from server.core.core import Core
from server.core.receipts import Stopwatch
from server.core.responses.records import Turn
from server.core.tenant import Tenant
from server.errors import InvalidRequest, NotReady, ServiceError
from server.http import request_id
from server.http.answers.callers import visit_of
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import error_detail, status_of
from server.http.answers.responding import respond
from server.http.answers.responses import Response
from server.http.envelope import CLIENT_LEFT, refusal_detail, validation_detail
from server.http.held import Held, held_of
from server.http.routing import read_json
from server.http.schemas.errors import ErrorDetail
from server.http.schemas.responses import ResponseRequest
from server.http.socket import RESTARTING, set_answering
from server.http.watched import Outcome, watched
from server.log import fields
from server.tally import Tally, counting

LONGEST_SECONDS = 3600.0  # of a connection, as the specification has it
MOST_WAITING = 8  # frames of a connection, that which is being answered among them
CREATE = "response.create"
ENDPOINT = "/v1/responses"
NOT_HERE = ("stream", "stream_options", "background")

logger = logging.getLogger(__name__)

router = APIRouter()


@router.websocket("/v1/responses")
@router.websocket("/responses")
async def respond_over_socket(socket: WebSocket, core: WithCore, tenant: WithTenant) -> None:
    """Answer `response.create` frames in turn; the last response of a connection can be gone on from, stored or not.

    Frames that come meanwhile wait, up to `MOST_WAITING`; more are not read before there is room. A client that leaves
    is not answered any more.
    """
    await socket.accept()
    connection = _Connection(socket, core, tenant)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            await connection.answer()
    except TimeoutError:
        detail = ErrorDetail(
            message=f"a connection lasts for {LONGEST_SECONDS:g} s; open another",
            type="invalid_request_error",
            param=None,
            code="websocket_connection_limit_reached",
        )
        await connection.refuse(400, detail)
        await socket.close()
    except WebSocketDisconnect:
        return


@dataclass(frozen=True)
class _Frame:
    """What a client sent: JSON, or why it is not taken; and what it holds of all bodies' bytes until it is answered."""

    data: bytes
    held: Held
    fault: InvalidRequest | HTTPException | None = None


class _Connection:
    def __init__(self, socket: WebSocket, core: Core, tenant: Tenant) -> None:
        self._socket = socket
        self._core = core
        self._tenant = tenant
        self._last: dict[str, Turn] = {}  # by its id the last response, where it is not stored
        self._waiting: deque[_Frame] = deque()

    async def answer(self) -> None:
        """Answer frames until the client leaves, WebSocketDisconnect then, or the server stops, after a turn."""
        work: set[asyncio.Task[None]] = set()
        turn: asyncio.Task[None] | None = None
        coming: asyncio.Task[None] | None = None
        try:
            while True:
                if turn is None and self._core.is_stopping.is_set():
                    await self._socket.close(RESTARTING)
                    return
                set_answering(self._socket.scope, bool(turn or self._waiting))
                if turn is None and self._waiting:
                    turn = asyncio.create_task(self._turn(self._waiting[0]))
                if coming is None and len(self._waiting) < MOST_WAITING:
                    coming = asyncio.create_task(self._receive())
                work = {task for task in (turn, coming) if task is not None}
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task  # raises what ended it
                if turn in done:
                    turn = None
                    self._waiting.popleft().held.release()
                if coming in done:
                    coming = None
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for frame in self._waiting:
                frame.held.release()

    async def _receive(self) -> None:
        """Have one more frame wait, held as a request's body is; WebSocketDisconnect where the client left instead."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        held = held_of(self._socket.scope).another()
        text = message.get("text")
        if text is None:
            fault = InvalidRequest("frames are texts of JSON here, and this one is of bytes")
            self._waiting.append(_Frame(b"", held, fault))
            return
        data = text.encode()
        try:
            held.add(len(data))
        except HTTPException as error:
            self._waiting.append(_Frame(b"", held, error))
        else:
            self._waiting.append(_Frame(data, held))

    async def _turn(self, frame: _Frame) -> None:
        """Answer one frame in the name of a request of its own, which has the connection's id."""
        with counting(Tally(request_id.of(self._socket.scope))) as tally, watched(self._socket.scope, tally) as outcome:
            await self._counted_turn(frame, tally, outcome)

    async def _counted_turn(self, frame: _Frame, tally: Tally, outcome: Outcome) -> None:
        """Answer one frame, with the events of a response or with an error."""
        named: str | None = None
        status = CLIENT_LEFT
        try:
            body = await self._body(frame)
            named = body.previous_response_id
            response = await self._response(body)
            await self._sent(response)
            status = 200 if response.error is None else status_of(response.error)
        except RequestValidationError as error:
            status = 400
            await self._failed(named, status, validation_detail(error)[1])
        except HTTPException as error:
            status = error.status_code
            await self._failed(named, status, refusal_detail(error))
        except ServiceError as error:
            status = status_of(error)
            await self._failed(named, status, error_detail(error))
        else:
            if response.error is not None and named is not None:
                self._last.pop(named, None)
        finally:
            outcome.status = status
            self._core.metrics.requests.labels(endpoint=ENDPOINT, status=status).inc()
            seconds = time.monotonic() - tally.started
            logger.info("WEBSOCKET %s %d %.3f s", ENDPOINT, status, seconds, extra=fields(tally.shown))

    async def refuse(self, status: int, detail: ErrorDetail) -> None:
        await self._send({"type": "error", "status": status, "error": detail.model_dump()})

    async def _body(self, frame: _Frame) -> ResponseRequest:
        """A frame's request; InvalidRequest, RequestValidationError or HTTPException where it is none."""
        if frame.fault is not None:
            raise frame.fault
        try:
            given = await read_json(self._socket, frame.data)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the frame is no JSON: {error}") from None
        return _request(given)

    async def _response(self, body: ResponseRequest) -> Response:
        if self._core.is_stopping.is_set():
            raise NotReady("the server is stopping")
        visit = visit_of(self._socket.scope)
        if visit is not None and self._core.access is not None:
            await self._core.access.require_valid(visit.account)
            visit.account.admit()
        return await respond(self._core, self._tenant, body, Stopwatch(), known=self._last, keep=self._keep)

    def _keep(self, turn: Turn) -> None:
        self._last = {turn.id: turn}

    async def _sent(self, response: Response) -> None:
        """Send the events."""
        async with aclosing(response.events()) as events:
            async for event in events:
                await self._send(event)

    async def _failed(self, named: str | None, status: int, detail: ErrorDetail) -> None:
        """Tell of a failure; the response that it went on from is forgotten here."""
        if named is not None:
            self._last.pop(named, None)
        await self.refuse(status, detail)

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send_text(to_json(frame).decode())


def _request(given: Any) -> ResponseRequest:
    """What a frame's JSON asks for; InvalidRequest or RequestValidationError where that is nothing."""
    if not isinstance(given, dict) or given.pop("type", None) != CREATE:
        raise InvalidRequest(f"a frame is a JSON object whose `type` is {CREATE!r}", param="type")
    for name in NOT_HERE:
        if given.get(name) is not None:
            raise InvalidRequest(f"`{name}` is not for WebSockets: frames are events of a stream", param=name)
    try:
        return ResponseRequest.model_validate({key: value for key, value in given.items() if key not in NOT_HERE})
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
