"""From the engine's thread to an event loop."""

import asyncio
from typing import Any


class Mailbox:
    """Carries results from the engine's thread to the event loop of whoever waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, result: Any) -> None:
        if not self._loop.is_closed():  # a loop that closed first has nobody left to tell
            self._loop.call_soon_threadsafe(self._queue.put_nowait, result)

    async def get(self) -> Any:
        result = await self._queue.get()
        if isinstance(result, Exception):
            raise result
        return result
