"""What was used lately, written now and then rather than at every read."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from server.store.protocol import StoreError

SECONDS_BETWEEN = 60.0  # two writes: eviction may take what was used later for what was used so much earlier

Used = Mapping[str, Sequence[str]]  # keys by their space


class Uses:
    """Collects keys, and has them written once in a while, beside whoever reads; what cannot be is forgotten."""

    def __init__(self, write: Callable[[Used], Awaitable[None]], *, seconds_between: float = SECONDS_BETWEEN) -> None:
        self._write = write
        self._seconds_between = seconds_between
        self._pending: dict[str, dict[str, None]] = {}
        self._written_at = time.monotonic()
        self._writing: asyncio.Task[None] | None = None

    def note(self, space: str, keys: Sequence[str]) -> None:
        """These were used just now."""
        self._pending.setdefault(space, {}).update(dict.fromkeys(keys))
        is_due = time.monotonic() - self._written_at >= self._seconds_between
        if is_due and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._written(self.take()))

    def take(self) -> Used:
        """What is not written yet; whoever takes it writes it."""
        taken, self._pending, self._written_at = self._pending, {}, time.monotonic()
        return {space: list(keys) for space, keys in taken.items()}

    async def close(self) -> None:
        """Wait for what is on its way."""
        if self._writing is not None:
            await self._writing

    async def _written(self, used: Used) -> None:
        with suppress(StoreError):
            await self._write(used)
