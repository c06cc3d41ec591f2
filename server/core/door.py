"""Who may have a prompt prepared: refusing is cheaper before it is."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from server.engine.protocol import Decoder
from server.errors import Overloaded
from server.metrics import Metrics

T = TypeVar("T")


class Door:
    """Lets in as many at a time as the engine holds, and nobody while it is full; of one event loop.

    Without it a crowd would have its prompts prepared, all at the same time, for the engine to refuse them.
    """

    def __init__(self, decoder: Decoder, metrics: Metrics, *, max_requests: int) -> None:
        self._decoder = decoder
        self._metrics = metrics
        self._max_requests = max_requests
        self._num_inside = 0

    async def through(self, prepare: Callable[[], Awaitable[T]]) -> T:
        """What `prepare` makes.

        Raises:
            Overloaded: before it was called. And what it raises.
        """
        if self._decoder.is_full or self._num_inside >= self._max_requests:
            self._metrics.rejections.labels(reason="queue_full").inc()
            raise Overloaded(f"the engine already holds its limit of {self._max_requests} requests")
        self._num_inside += 1
        try:
            return await prepare()
        finally:
            self._num_inside -= 1
