"""The engine's line: who is refused, who waits, and that a place is never lost."""

import asyncio

import pytest

from server.engine import admission
from server.engine.admission import Admission
from server.errors import Overloaded


async def hold(line: Admission, until: asyncio.Event, *, waits: bool = False) -> None:
    async with line.place(waits=waits):
        await until.wait()


async def test_who_waits_gets_the_next_place_in_order() -> None:
    line, ends = Admission(1, lambda: None), [asyncio.Event() for _ in range(3)]
    order: list[int] = []

    async def work(number: int) -> None:
        async with line.place(waits=True):
            order.append(number)
            await ends[number].wait()

    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(work(number)))
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="limit of 1"):
        await hold(line, ends[0])
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)
    assert (order, line.is_full) == ([0, 1, 2], False)


async def test_a_place_comes_back_however_its_holder_ends() -> None:
    line, never = Admission(2, lambda: None), asyncio.Event()
    holding = [asyncio.create_task(hold(line, never)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(hold(line, never, waits=True))
    await asyncio.sleep(0)
    assert line.is_full
    for task in (waiting, *holding):  # one that waits leaves before it has a place
        task.cancel()
    await asyncio.gather(waiting, *holding, return_exceptions=True)
    assert not line.is_full
    with pytest.raises(RuntimeError):
        async with line.place(waits=False):
            raise RuntimeError
    async with line.place(waits=False), line.place(waits=False):
        assert line.is_full


async def test_those_who_wait_leave_places_to_those_who_do_not() -> None:
    """However many wait: behind them nobody else would ever be served."""
    line, never = Admission(8, lambda: None), asyncio.Event()
    waiting = [asyncio.create_task(hold(line, never, waits=True)) for _ in range(20)]
    await asyncio.sleep(0)
    async with line.place(waits=False), line.place(waits=False):
        assert line.is_full
        with pytest.raises(Overloaded):
            await hold(line, never)
    assert not line.is_full
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with line.place(waits=True):
        pass


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LONGEST_WAIT_SECONDS", 0.01)
    refusals: list[None] = []
    line = Admission(1, lambda: refusals.append(None))
    async with line.place(waits=False):
        for waits in (True, False):
            with pytest.raises(Overloaded):
                async with line.place(waits=waits):
                    pass
    assert len(refusals) == 2
