"""One WebSocket: at a stop the turn that runs is answered, which uvicorn would cut off."""

from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

RESTARTING = 1012  # the close code of a service that restarts (IANA's registry of RFC 6455's codes)
ANSWERING = "autocompressor.answering"  # in the scope, while a frame is being answered


def set_answering(scope: MutableMapping[str, Any], is_answering: bool) -> None:
    """Say whether a frame of this connection is being answered."""
    scope[ANSWERING] = is_answering


class Socket(WebSocketsSansIOProtocol):
    """Closed when the server stops, or where a frame is being answered by whoever answers it, afterwards."""

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent and self.scope.get(ANSWERING):
            return
        super().shutdown()
