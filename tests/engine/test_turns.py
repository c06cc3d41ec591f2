"""Engines of one device take turns on its thread; one that fails ends alone."""

from collections.abc import Callable

import pytest

from server.engine.torch.turns import Turns
from server.errors import EngineFailed, ServiceError
from server.metrics import Metrics


class Busy:
    """Has something to do in so many turns, then leaves; or fails in its last one."""

    def __init__(self, name: str, turns: Turns, order: list[str], number: int, *, fails: str | None = None) -> None:
        self.name, self._turns, self._order, self._left, self._fails = name, turns, order, number, fails
        self.error: ServiceError | None = None

    def next_turn(self) -> Callable[[], None]:
        if self._left == 0 and self._fails == "asked":
            raise RuntimeError("a defect")
        return self._take

    def _take(self) -> None:
        if self._left == 0:
            assert self._fails is None, "a defect"
            self._turns.leave(self)
            return
        self._left -= 1
        self._order.append(self.name)

    def seconds_to_turn(self) -> None:
        return None

    def end(self, error: ServiceError) -> None:
        self.error = error
        self._turns.leave(self)


@pytest.mark.parametrize("fails", [None, "asked", "run"])
def test_one_step_each_in_turn(fails: str | None) -> None:
    turns, order = Turns(Metrics()), list[str]()
    short, long = Busy("short", turns, order, 3, fails=fails), Busy("long", turns, order, 6)
    with turns.work:  # so that both are there from the first turn on
        turns._members.append(short)
        turns._members.append(long)
        turns._thread.start()
    for each in (short, long):
        turns.wait_until_left(each)
    assert order == ["short", "long"] * 3 + ["long"] * 3
    assert isinstance(short.error, EngineFailed) == (fails is not None)
    assert long.error is None
    assert not turns._thread.is_alive()
