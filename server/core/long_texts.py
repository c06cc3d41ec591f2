"""Long texts are tokenised one at a time: each takes a thread for seconds, and hundreds of bytes for each character."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LONG = 2**17  # characters


class LongTexts:
    """Has work on texts done in threads; that on long ones waits for its turn outside of them."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def in_thread(self, num_characters: int, work: Callable[[], T]) -> T:
        """The result of work on so much text; whoever stops waiting before its turn has it left undone.

        Raises:
            What the work raises.
        """
        if num_characters < LONG:
            return await asyncio.to_thread(work)
        await self._turn.acquire()
        task = asyncio.create_task(asyncio.to_thread(work))
        task.add_done_callback(self._done)
        return await asyncio.shield(task)  # a thread goes on without whoever waited, and the next waits for it

    def _done(self, task: "asyncio.Task[T]") -> None:
        self._turn.release()
        if not task.cancelled():
            task.exception()  # retrieved, though nobody waits any more
