"""Work that several callers want at once, done once (Go's `singleflight` package)."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(eq=False)
class _Flight:
    task: "asyncio.Task[None]"
    num_waiting: int = field(default=0, init=False)


class SingleFlight:
    """Runs one piece of work a key at a time; whoever comes meanwhile waits for it."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Return when the work under a key is done: this caller's, which is True, or one that was on its way.

        A caller that is cancelled leaves it to the others; the last one to leave cancels it. Its error is everyone's.
        """
        flight = self._flights.get(key)
        is_first = flight is None
        if flight is None:
            flight = _Flight(asyncio.create_task(work()))
            self._flights[key] = flight
            flight.task.add_done_callback(partial(self._forget, key, flight))
        flight.num_waiting += 1
        try:
            await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            if not flight.num_waiting and not flight.task.done():
                self._forget(key, flight, flight.task)  # whoever comes now begins anew
                flight.task.cancel()
        return is_first

    def _forget(self, key: str, flight: _Flight, _: "asyncio.Task[None]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
