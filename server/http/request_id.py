"""A request's id as HTTP has it: accepted, remembered with the request, answered."""

from starlette.types import Scope

HEADER = "X-Request-Id"
_KEY = "autocompressor.request_id"


def remember(scope: Scope, request_id: str) -> None:
    """Keep it with the request."""
    scope[_KEY] = request_id


def of(scope: Scope) -> str:
    """The id of a request or a WebSocket; empty where nothing is remembered."""
    return str(scope.get(_KEY, ""))


def headers(scope: Scope) -> dict[str, str]:
    """For an answer made outside of all middleware, as that to a defect is; none where nothing is remembered."""
    return {HEADER: of(scope)} if of(scope) else {}
