"""Which threads may use the CPU's cores: the engine's all of them, every other one."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


async def in_a_thread_that_ends(function: Callable[..., T], *arguments: Any) -> T:
    """Off the event loop, with all cores; a thread that stayed, as `asyncio.to_thread`'s do, would keep its team."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


@contextmanager
def one_core_elsewhere() -> Iterator[None]:
    """Let this thread, and those that begin from now on, compute on one core each; the engine's thread keeps its own.

    OpenMP's threads wait for their next loop spinning, but hardly at all once a process has more of them than cores: a
    second team, of whichever thread summed a large tensor once, makes every step of the engine half as fast.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
