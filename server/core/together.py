"""Pieces of one request's work at the same time; where one fails, or the request is left, none goes on."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")
Start = Callable[[], Coroutine[Any, Any, T]]


async def together(work: Sequence[Start[T]], *, limit: int) -> list[T]:
    """The results of all, in order, at most `limit` of them running; the first error of any."""
    gate = asyncio.Semaphore(limit)

    async def run(start: Start[T]) -> T:
        async with gate:
            return await start()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(start)) for start in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def merged(streams: Sequence[AsyncGenerator[T]], *, limit: int) -> AsyncGenerator[tuple[int, T]]:
    """What the streams yield as it comes, with the place of the stream it came from, at most `limit` of them read."""
    items: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def read(index: int, stream: AsyncGenerator[T]) -> None:
        async with aclosing(stream):
            async for item in stream:
                items.put_nowait((index, item))

    def start(index: int, stream: AsyncGenerator[T]) -> Start[None]:
        return lambda: read(index, stream)

    reading = asyncio.create_task(together([start(*each) for each in enumerate(streams)], limit=limit))
    reading.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        await reading  # raises what ended a stream
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
