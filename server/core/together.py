"""Pieces of one request's work at the same time; where one fails, or the request is left, none goes on."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Start = Callable[[], Coroutine[Any, Any, T]]


@dataclass(frozen=True)
class _End:
    """Of the stream at this place."""

    index: int


async def together(work: Sequence[Start[T]], *, limit: int) -> list[T]:
    """The results of all, in order, at most `limit` of them running; the first error of any."""
    gate = asyncio.Semaphore(limit)

    async def run(start: Start[T]) -> T:
        async with gate:
            return await start()

    tasks = [asyncio.create_task(run(start)) for start in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def merged(streams: Sequence[AsyncGenerator[T]], *, limit: int) -> AsyncGenerator[tuple[int, T]]:
    """What the streams yield as it comes, with the place of the stream it came from, at most `limit` of them read."""
    gate = asyncio.Semaphore(limit)
    items: asyncio.Queue[tuple[int, T] | _End] = asyncio.Queue()

    async def read(index: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with gate, aclosing(stream):
                async for item in stream:
                    items.put_nowait((index, item))
        finally:
            items.put_nowait(_End(index))

    tasks = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    num_running = len(tasks)
    try:
        while num_running:
            item = await items.get()
            if isinstance(item, _End):
                num_running -= 1
                await tasks[item.index]  # raises what ended it
            else:
                yield item
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
