"""What a page of another origin may not do from a visitor's browser: reach a server that is its owner's alone."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.routing import PROBES
from server.http.schemas.errors import ErrorDetail, ErrorResponse

READS = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1; before the connection is accepted the answer is 403


class Browsers:
    """Refuses unknown host names, which a page that rebinds its name to this address would send, and foreign writes.

    Args:
        hosts: names that requests may be addressed to, without port; None for any.
        origins: other origins whose pages may write, as the CORS setting names them; `*` for any.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, origins: Collection[str]) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = None
        if scope["type"] in ("http", "websocket"):  # the latter may write, and browsers open it to any origin
            fault = self._fault(scope.get("method", "WEBSOCKET"), scope["path"], Headers(scope=scope))
        if fault is None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": fault})
            return
        detail = ErrorDetail(message=fault, type="invalid_request_error", param=None, code="forbidden")
        await JSONResponse(ErrorResponse(error=detail).model_dump(), status_code=403)(scope, receive, send)

    def _fault(self, method: str, path: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts and path not in PROBES:
            return f"requests to the host {host!r} are not answered; the setting allowed_hosts names those that are"
        origin = headers.get("origin")
        if method in READS or "*" in self._origins or (origin is not None and origin in self._origins):
            return None
        # "null" is the origin of sandboxed pages and local files
        is_foreign = origin is not None and urlsplit(origin).netloc != host
        if is_foreign or headers.get("sec-fetch-site") == "cross-site":
            return f"a page of {origin or 'another site'} may not write here; the setting cors_origins names who may"
        return None


def _name(host: str) -> str:
    """A host header without its port, IPv6 addresses without their brackets."""
    return (urlsplit(f"//{host}").hostname or "").lower()
