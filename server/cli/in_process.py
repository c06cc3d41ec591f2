"""The server without a socket: the application of `app.py`, called from this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Scope

from server import log
from server.cli import terminal
from server.http.app import create_app, open_services
from server.settings import load_settings
from server.store import StoreError


@asynccontextmanager
async def open_transport(settings: dict[str, Any]) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """Opens the parts that `settings` and the environment name; a start that fails ends the program."""
    log.configure("warning")
    async with AsyncExitStack() as opened:
        try:
            services = await opened.enter_async_context(open_services(load_settings({}, settings)))
        except (ValueError, OSError, StoreError) as error:
            terminal.stop(terminal.as_sentence(error))
        yield StreamingTransport(create_app(services))


class StreamingTransport(httpx.AsyncBaseTransport):
    """Hands an answer on as it is made; httpx's own ASGITransport waits for the whole of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(self._app, _scope(request), await request.aread())
        try:
            start = await exchange.next()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and the messages that answer it; None after the last."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._requests: asyncio.Queue[Message] = asyncio.Queue()
        self._requests.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()
        self._has_left = False
        self._task = asyncio.create_task(self._call(app, scope))

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._requests.get, self._send)
        finally:
            self._answers.put_nowait(None)

    async def _send(self, message: Message) -> None:
        if self._has_left:
            raise OSError("the client has left")  # as the ASGI specification wants it from 2.4 on
        self._answers.put_nowait(message)

    async def next(self) -> Message:
        message = await self._answers.get()
        if message is None:
            raise httpx.RemoteProtocolError("the application ended without a whole answer")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        has_more = True
        while has_more:
            message = await self.next()
            yield message.get("body", b"")
            has_more = message.get("more_body", False)

    async def aclose(self) -> None:
        """Wait for the application, which hears of a client that leaves before the end."""
        self._has_left = True
        self._requests.put_nowait({"type": "http.disconnect"})
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # it was logged and answered with 500 by the application; nobody reads it here


def _scope(request: httpx.Request) -> Scope:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.split(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (url.host, url.port),
        "client": ("127.0.0.1", 0),
    }
