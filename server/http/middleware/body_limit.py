"""The limits of a request's body: its bytes, the pauses in it, and how slow it may be."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_BYTES_A_SECOND = 10_000  # a byte a minute would hold what came before it for ever


class BodyLimit:
    """Counts a body's bytes as they come, and refuses one that is over the limit.

    A pure ASGI middleware (asgi.readthedocs.io), so that streams pass through as they come.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        """`seconds`: the longest pause, and what a body may take beyond `MIN_BYTES_A_SECOND`; a client that stalls half
        way would hold its connection, and a stop."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, self._limited(receive) if scope["type"] == "http" else receive, send)

    def _limited(self, receive: Receive) -> Receive:
        size, is_whole, started = 0, False, 0.0

        async def limited_receive() -> Message:
            nonlocal size, is_whole, started
            started = started or time.monotonic()
            left = started + self._seconds + size / MIN_BYTES_A_SECOND - time.monotonic()
            try:
                # once the body is there the next message comes when the client leaves, however late
                async with asyncio.timeout(None if is_whole else min(left, self._seconds)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"{size} bytes of the request body came in {time.monotonic() - started:.1f} s; it may pause for "
                    f"{self._seconds:g} s, and take as much more than {MIN_BYTES_A_SECOND} bytes a second would",
                ) from None
            is_whole = not message.get("more_body")
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                # an HTTPException, since FastAPI turns any other error here into "400, could not parse the body"
                raise HTTPException(413, f"the request body is over the limit of {self._max_bytes} bytes")
            return message

        return limited_receive
