"""Of every request: its id, its line in the log and its metrics."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.request_id import HEADER, remember
from server.http.routing import PROBES
from server.log import fields
from server.metrics import Metrics
from server.tally import Tally, counting

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # one label for all paths that are no endpoint: clients choose those
QUIET = PROBES | {"/metrics"}
SANE = re.compile(r"[A-Za-z0-9._:=;/+@-]{1,128}")  # as proxies make ids; nothing that could forge a line or a field
BEGINNINGS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class RequestLog:
    """A pure ASGI middleware (asgi.readthedocs.io), so that streams pass through as they come.

    A request's id is what `X-Request-Id` says, where that is a sane one, or else a new one; every answer has it, that
    to a WebSocket's handshake among them.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given, status = Headers(scope=scope).get(HEADER, ""), 500
        tally = Tally(given if SANE.fullmatch(given) else uuid.uuid4().hex)
        remember(scope, tally.request_id)

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] in BEGINNINGS:
                status = message.get("status", status)
                MutableHeaders(scope=message)[HEADER] = tally.request_id
            await send(message)

        with counting(tally):
            try:
                await self._app(scope, receive, observed_send)
            finally:
                if scope["type"] == "http":  # a WebSocket's turns have lines of their own
                    self._record(scope, status, tally)

    def _record(self, scope: Scope, status: int, tally: Tally) -> None:
        endpoint = getattr(scope.get("route"), "path", UNKNOWN)
        seconds = time.monotonic() - tally.started
        self._metrics.requests.labels(endpoint=endpoint, status=status).inc()
        self._metrics.request_seconds.labels(endpoint=endpoint).observe(seconds)
        level = logging.DEBUG if endpoint in QUIET else logging.INFO
        logger.log(level, "%s %s %d %.3f s", scope["method"], endpoint, status, seconds, extra=fields(tally.shown))
