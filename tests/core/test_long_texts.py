"""Long texts take their turns, and threads that nobody waits for any more are waited for by the next."""

import asyncio
import threading

import pytest

from server.core.long_texts import LONG, LongTexts


class Work:
    """Waits in a thread until it is let go; counts how many wait at a time."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = self.most = self.begun = 0

    def __call__(self) -> None:
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        self.go.wait(5)
        self.running -= 1


async def test_long_texts_take_turns_and_leave_threads_to_short_ones() -> None:
    texts, work = LongTexts(), Work()
    long = [asyncio.create_task(texts.in_thread(LONG, work)) for _ in range(100)]
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(texts.in_thread(LONG - 1, lambda: "short"), 1) == "short"
    work.go.set()
    await asyncio.gather(*long)
    assert (work.most, work.begun) == (1, 100)


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    texts, work = LongTexts(), Work()
    long = [asyncio.create_task(texts.in_thread(LONG, work)) for _ in range(8)]
    await asyncio.sleep(0.05)
    for task in long:
        task.cancel()
    await asyncio.wait(long)
    last = asyncio.create_task(texts.in_thread(LONG, lambda: work.running))
    await asyncio.sleep(0.05)
    assert not last.done()  # the first one's thread goes on, and has its memory
    work.go.set()
    assert await last == 0
    assert work.begun == 1


async def test_an_error_is_told_and_the_next_has_its_turn() -> None:
    texts = LongTexts()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await texts.in_thread(LONG, lambda: 1 // 0)
