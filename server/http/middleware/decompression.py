"""Bodies with a Content-Encoding (RFC 9110, section 8.4): gzip and zstd are decoded, others refused."""

import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Decompression:
    """Decodes bodies as they come, a piece at a time: what stands around it counts what comes out.

    Args:
        max_bytes: of a decoded body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = Headers(scope=scope).get("content-encoding", "identity") if scope["type"] == "http" else "identity"
        name = encoding.strip().lower()
        if name == "identity":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        del headers["content-encoding"]
        if "content-length" in headers:
            del headers["content-length"]
        await self._app(scope, _Decoded(receive, name, self._max_bytes), send)


class _Decoded:
    """A body's messages, decoded; the errors are raised where the body is read, so that they have a place to go."""

    def __init__(self, receive: Receive, name: str, max_bytes: int) -> None:
        self._receive, self._name, self._max_bytes = receive, name, max_bytes
        self._left = max_bytes
        self._decoder: _Decoder | None = None

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        if self._decoder is None:
            self._decoder = _decoder(self._name)
        try:
            body = b"".join(self._pieces(message.get("body", b""), self._decoder))
        except (zlib.error, zstandard.ZstdError) as error:
            raise HTTPException(400, f"the body is not {self._name}, as its Content-Encoding says: {error}") from None
        if not message.get("more_body") and not self._decoder.is_complete:
            raise HTTPException(400, f"the body is not whole: its {self._name} has no end")
        return {**message, "body": body}

    def _pieces(self, body: bytes, decoder: "_Decoder") -> Iterator[bytes]:
        for start in range(0, len(body), decoder.piece):
            piece = decoder.decode(body[start : start + decoder.piece], self._left + 1)
            if len(piece) > self._left:
                raise HTTPException(413, f"the decoded request body is over the limit of {self._max_bytes} bytes")
            self._left -= len(piece)
            yield piece


class _Decoder(Protocol):
    """`piece`: bytes that it is given at a time, few enough that what comes out of them is little."""

    piece: int

    @property
    def is_complete(self) -> bool: ...

    def decode(self, data: bytes, most: int) -> bytes:
        """What these bytes add, of which more than `most` is not needed."""
        ...


class _Gzip:
    piece = 2**16

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def is_complete(self) -> bool:
        return self._decoder.eof

    def decode(self, data: bytes, most: int) -> bytes:
        return self._decoder.decompress(data, most)


class _Zstd:
    piece = 256  # at most 64 blocks of 128 KiB each (RFC 8878, section 3.1.1.2)

    def __init__(self) -> None:
        # a frame may ask for a window of gigabytes: as much as every decoder of the web has to take (RFC 9659)
        self._decoder = zstandard.ZstdDecompressor(max_window_size=2**23).decompressobj()

    @property
    def is_complete(self) -> bool:
        return bool(self._decoder.eof)

    def decode(self, data: bytes, most: int) -> bytes:  # noqa: ARG002  # it has no way to stop
        return b"" if self._decoder.eof else self._decoder.decompress(data)


def _decoder(name: str) -> _Decoder:
    if name in ("gzip", "x-gzip"):
        return _Gzip()
    if name == "zstd":
        return _Zstd()
    raise HTTPException(415, f"the Content-Encoding {name!r} is not known; gzip and zstd are")
