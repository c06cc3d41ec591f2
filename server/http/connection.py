"""One connection: its headers come in bounded time and bytes, which uvicorn leaves to a proxy."""

from asyncio import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CLOSED = b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large" + CLOSED
TOO_SLOW = b"HTTP/1.1 408 Request Timeout" + CLOSED
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5" + CLOSED


class Connection(HttpToolsProtocol):
    """Closed where no request is being answered and the next one's headers are not there in time.

    The time runs from the connection's start, then from the first byte after an answer; before that byte uvicorn's own
    keep-alive timeout runs.
    """

    header_seconds = 20.0
    max_header_bytes = 2**16  # as uvicorn's other parser, h11, has it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = self.loop.call_later(self.header_seconds, self._too_slow)
        self._is_clock_on, self._is_in_headers, self._is_too_large = True, False, False
        self._header_bytes = 0  # of this request's line, headers and trailers
        self._unread_bytes = 0  # read since the parser last had something to tell

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > self.max_header_bytes:
            self._close(TOO_LARGE)
        is_ours = self.transport.get_protocol() is self  # else it has become a WebSocket
        if is_ours and not self._is_clock_on and (self.cycle is None or self.cycle.response_complete):
            self._clock, self._is_clock_on = self.loop.call_later(self.header_seconds, self._too_slow), True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_headers, self._header_bytes, self._unread_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._clock.cancel()
        self._is_clock_on, self._is_in_headers, self._unread_bytes = False, False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        """Refuse a WebSocket where a request would be, which uvicorn does not: it looks at its limit after this."""
        most = self.limit_concurrency
        if most is not None and len(self.connections) >= most:
            self._close(TOO_MANY)
        else:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does where the parser failed, be it in a call of `_count`."""
        if self._is_too_large:
            self._close(TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _count(self, num_bytes: int) -> None:
        self._header_bytes += num_bytes
        self._unread_bytes = 0
        if self._header_bytes > self.max_header_bytes:
            self._is_too_large = True
            raise ValueError(f"over {self.max_header_bytes} bytes of headers")

    def _too_slow(self) -> None:
        self._close(TOO_SLOW if self._is_in_headers else b"")

    def _close(self, answer: bytes) -> None:
        transport: Transport | None = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(answer)
            transport.close()
