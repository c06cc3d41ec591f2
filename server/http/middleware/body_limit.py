"""The limit of a request's body."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Counts a body's bytes as they come, and refuses one that is over the limit.

    A pure ASGI middleware (asgi.readthedocs.io), so that streams pass through as they come.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, self._limited(receive) if scope["type"] == "http" else receive, send)

    def _limited(self, receive: Receive) -> Receive:
        size = 0

        async def limited_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                # an HTTPException, since FastAPI turns any other error here into "400, could not parse the body"
                raise HTTPException(413, f"the request body is over the limit of {self._max_bytes} bytes")
            return message

        return limited_receive
