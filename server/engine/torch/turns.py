"""The thread that has the device, and its turns: a step of each engine that has work, one after the other.

One thread for all of them: a second one would have OpenMP threads of its own, with which every step takes twice as long
(`cores.py`).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NoReturn, Protocol

import torch

from server.engine.torch.observer import Loads
from server.errors import EngineFailed, ServiceError
from server.metrics import Metrics

logger = logging.getLogger(__name__)


class Member(Protocol):
    """What has turns."""

    name: str

    def next_turn(self) -> Callable[[], None] | None:
        """What it does in its turn, None for nothing; called with `work` held."""

    def seconds_to_turn(self) -> float | None:
        """Until it has something to do without being woken; None for never."""

    def end(self, error: ServiceError) -> None:
        """Fail all who wait; called on the thread."""


class Turns:
    """Gives its members turns in a circle, from the first's `join` until the last has left."""

    def __init__(self, metrics: Metrics) -> None:
        self.work = threading.Condition()  # held while a member's line changes; told when there is something to do
        self.loads = Loads(metrics)
        self._members: deque[Member] = deque()
        self._has_cores = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    def join(self, member: Member) -> None:
        """Begin to give a member turns; the thread has taken as many cores by then as torch gives one by now."""
        with self.work:
            self._members.append(member)
            if self._thread.ident is None:
                self._thread.start()
            self.work.notify_all()
        self._has_cores.wait()

    def leave(self, member: Member) -> None:
        """Give a member no more turns; called on the thread."""
        with self.work:
            if member in self._members:
                self._members.remove(member)
            self.work.notify_all()

    def wait_until_left(self, member: Member) -> None:
        """Block until a member has left, and where it was the last until the thread has ended."""
        with self.work:
            self.work.wait_for(lambda: member not in self._members)
            is_last = not self._members and self._thread.ident is not None
        if is_last:
            self._thread.join()

    def _serve(self) -> None:
        torch.get_num_threads()  # torch sets a thread's number when it first asks
        self._has_cores.set()
        try:
            while (found := self._next_turn()) is not None:
                member, turn = found
                try:
                    turn()
                except Exception:  # a member's own, which ends its turns and nobody else's
                    logger.exception("%s has failed", member.name)
                    member.end(_failed())
        finally:
            for member in tuple(self._members):  # none, but for an error that is no `Exception`
                member.end(_failed())

    def _next_turn(self) -> tuple[Member, Callable[[], None]] | None:
        """Wait until a member has something to do, beginning after the one whose turn was last; None when all left."""
        with self.work:
            while self._members:
                for _ in range(len(self._members)):
                    member = self._members[0]
                    self._members.rotate(-1)
                    if (turn := _turn_of(member)) is not None:
                        return member, turn
                waits = [seconds for member in self._members if (seconds := member.seconds_to_turn()) is not None]
                self.work.wait(min(waits, default=None))
        return None


def _turn_of(member: Member) -> Callable[[], None] | None:
    """A member's next turn, which raises what asking for it has raised."""
    try:
        return member.next_turn()
    except Exception as error:
        return partial(_raise, error)


def _raise(error: Exception) -> NoReturn:
    raise error


def _failed() -> EngineFailed:
    return EngineFailed("the engine has failed; the server has to be restarted")
