"""The limits of a request's body: its bytes, and the pauses in it."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Counts a body's bytes as they come, and refuses one that is over the limit.

    A pure ASGI middleware (asgi.readthedocs.io), so that streams pass through as they come.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        """`seconds`: the longest pause; a client that stalls half way would hold its connection, and a stop."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, self._limited(receive) if scope["type"] == "http" else receive, send)

    def _limited(self, receive: Receive) -> Receive:
        size, is_whole = 0, False

        async def limited_receive() -> Message:
            nonlocal size, is_whole
            try:
                # once the body is there the next message comes when the client leaves, however late
                async with asyncio.timeout(None if is_whole else self._seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"nothing of the request body came for {self._seconds:g} s") from None
            is_whole = not message.get("more_body")
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                # an HTTPException, since FastAPI turns any other error here into "400, could not parse the body"
                raise HTTPException(413, f"the request body is over the limit of {self._max_bytes} bytes")
            return message

        return limited_receive
