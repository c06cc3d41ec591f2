"""Who is let in: a key on every route but those that hold nothing of anybody's; its limits, and its line in the log."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.callers import audit
from server.core.callers.access import Access
from server.core.callers.accounts import Account
from server.core.callers.visit import Visit, visiting
from server.errors import RateLimited, ServiceError, Unauthorized
from server.http.answers.callers import VISIT, bearer, error_headers, limit_headers
from server.http.answers.errors import error_detail, status_of
from server.http.routing import PROBES
from server.http.schemas.errors import ErrorResponse
from server.metrics import Metrics

# the page asks for a key itself
OPEN = PROBES | {"/", "/docs"}
OPEN_FOLDER = "/static/"


class Callers:
    """Refuses requests without a key that is let in (401), and those over its limits (429), before their bodies."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        account = None
        try:
            account = await self._access.account(bearer(Headers(scope=scope)))
            account.require_place()
            if scope["type"] == "http":  # of a WebSocket each frame is a request
                account.admit()
        except ServiceError as error:
            self._count(error)
            audit.refused(account, _method(scope), error.code)
            await _refuse(error, account, scope, receive, send)
            return
        account.running += 1
        try:
            await self._visit(account, scope, receive, send)
        finally:
            account.running -= 1

    async def _visit(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        visit = scope[VISIT] = Visit(account)
        status, num_received, num_sent = 500, 0, 0

        async def counted_receive() -> Message:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body") or message.get("bytes") or (message.get("text") or "").encode())
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, num_sent
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                MutableHeaders(scope=message).update(limit_headers(account))
            num_sent += len(message.get("body") or message.get("bytes") or (message.get("text") or "").encode())
            await send(message)

        try:
            with visiting(visit):
                await self._app(scope, counted_receive, counted_send)
        finally:
            endpoint = getattr(scope.get("route"), "path", "unknown")
            audit.visited(visit, f"{_method(scope)} {endpoint}", status, num_received, num_sent)

    def _count(self, error: ServiceError) -> None:
        reason = {Unauthorized: "key", RateLimited: "rate"}.get(type(error))
        if reason is not None:
            self._metrics.rejections.labels(reason=reason).inc()


async def _refuse(error: ServiceError, account: Account | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error; before a WebSocket's handshake, too, where the server can (ASGI's denial response)."""
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.message})
            return
    body = ErrorResponse(error=error_detail(error)).model_dump()
    headers = error_headers(error) | ({} if account is None else limit_headers(account))
    await JSONResponse(body, status_code=status_of(error), headers=headers)(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDER)


def _method(scope: Scope) -> str:
    return str(scope.get("method", "WEBSOCKET"))
