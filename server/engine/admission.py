"""Who may join the engine's line: so many requests, and whoever waits for a place gets the next that is free."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from server.errors import Overloaded

LONGEST_WAIT_SECONDS = 60.0
RESERVED_SHARE = 4  # of all places, so many parts; one of them is never given to those who wait


class Admission:
    """Places in the line, of one event loop."""

    def __init__(self, max_requests: int, on_refusal: Callable[[], None]) -> None:
        self._max_requests = max_requests
        self._places = asyncio.Semaphore(max_requests)
        # who waits does so here: whoever does not wait would never find a place behind them
        self._patient = asyncio.Semaphore(max(1, max_requests - max_requests // RESERVED_SHARE))
        self._on_refusal = on_refusal

    @property
    def is_full(self) -> bool:
        return self._places.locked()

    @asynccontextmanager
    async def place(self, *, waits: bool) -> AsyncIterator[None]:
        """Hold a place while the body runs.

        Raises:
            Overloaded: there is none, or none came while it was waited for.
        """
        if self.is_full and not waits:
            raise self._refused()
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                    if waits:
                        await held.enter_async_context(self._patient)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise self._refused() from None
            yield

    def _refused(self) -> Overloaded:
        self._on_refusal()
        return Overloaded(f"the engine already holds its limit of {self._max_requests} requests")
