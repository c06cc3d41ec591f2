"""Waiting for room in the engine, for one of many pieces of a request that was taken as a whole."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from server.errors import Overloaded

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.5
MAX_ATTEMPTS = 100  # about 45 seconds


async def patiently(start: Callable[[], Awaitable[T]]) -> T:
    """The result of work that is begun again as long as the engine's line is full; Overloaded if it stays so."""
    pause = FIRST_PAUSE_SECONDS
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return await start()
        except Overloaded:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return await start()
