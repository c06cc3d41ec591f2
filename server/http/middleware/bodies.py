"""The bytes of all bodies that are held at a time: no number of large requests may fill the memory."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.held import HELD, Held
from server.metrics import Metrics


class Bodies:
    """Counts the bytes of bodies as they come, decoded, until their requests end; refuses more with 429.

    A quarter of `max_bytes` is kept for small bodies: whatever large ones there are, a question comes in.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, metrics: Metrics) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        held = scope[HELD] = Held(self._count)
        if scope["type"] == "websocket":  # its route counts frame by frame: a connection lasts
            await self._app(scope, receive, send)
            return

        async def counted_receive() -> Message:
            message = await receive()
            held.add(len(message.get("body", b"")))
            return message

        try:
            await self._app(scope, counted_receive, send)
        finally:
            held.release()

    def _count(self, num_bytes: int, *, is_small: bool = False) -> None:
        most = self._max_bytes if is_small else self._max_bytes * 3 // 4
        if num_bytes > 0 and self._bytes + num_bytes > most:
            self._metrics.rejections.labels(reason="bodies").inc()
            # an HTTPException, since FastAPI turns any other error here into "400, could not parse the body"
            raise HTTPException(
                429,
                f"the bodies of unfinished requests hold {self._bytes} bytes; with {num_bytes} more of this one they "
                f"would be over the limit of {most}",
            )
        self._bytes += num_bytes
        self._metrics.body_bytes.set(self._bytes)
