"""Of every request, its line in the log and its metrics."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # one label for all paths that are no endpoint: clients choose those
QUIET = frozenset({"/health", "/livez", "/readyz", "/metrics"})


class RequestLog:
    """A pure ASGI middleware (asgi.readthedocs.io), so that streams pass through as they come."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            self._record(scope, status, time.monotonic() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        endpoint = getattr(scope.get("route"), "path", UNKNOWN)
        self._metrics.requests.labels(endpoint=endpoint, status=status).inc()
        self._metrics.request_seconds.labels(endpoint=endpoint).observe(seconds)
        level = logging.DEBUG if endpoint in QUIET else logging.INFO
        logger.log(level, "%s %s %d %.3f s", scope["method"], endpoint, status, seconds)
