"""Pieces of one request at the same time: order, limit, the first error, and that none goes on after it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from server.core.together import merged, together


class Counter:
    """Work that counts how many of it run at once, and how many were cut off."""

    def __init__(self) -> None:
        self.running = self.most = self.cut_off = 0

    async def work(self, number: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001 * (5 - number))
            if number < 0:
                raise ValueError(f"number {number}")
            return number
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.running -= 1

    async def stream(self, number: int) -> AsyncGenerator[int]:
        for _ in range(3):
            yield await self.work(number)


async def test_results_stand_in_order_and_few_run_at_once() -> None:
    counter = Counter()
    results = await together([lambda n=n: counter.work(n) for n in range(5)], limit=2)  # type: ignore[misc]
    assert (results, counter.most) == ([0, 1, 2, 3, 4], 2)
    assert await together([], limit=1) == []


async def test_the_error_is_itself_and_ends_the_others() -> None:
    counter = Counter()

    async def for_ever() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            counter.cut_off += 1
        return 0

    with pytest.raises(ValueError, match="number -1"):
        await together([for_ever, lambda: counter.work(-1), for_ever], limit=3)
    assert counter.cut_off == 2


async def test_streams_come_as_they_come() -> None:
    counter = Counter()
    got = [item async for item in merged([counter.stream(n) for n in range(4)], limit=2)]
    assert sorted(got) == [(n, n) for n in range(4) for _ in range(3)]
    assert counter.most == 2


async def test_who_leaves_a_merged_stream_ends_it() -> None:
    counter = Counter()
    async with aclosing(merged([counter.stream(0), counter.stream(1)], limit=2)) as items:
        await anext(items)
    assert (counter.running, counter.cut_off) == (0, 2)


async def test_an_error_in_one_stream_ends_all() -> None:
    counter = Counter()
    with pytest.raises(ValueError, match="number -1"):
        [item async for item in merged([counter.stream(0), counter.stream(-1)], limit=2)]
    assert counter.running == 0
