"""How much a caller may do in a minute."""

import math
import time
from collections.abc import Callable

MINUTE = 60.0  # seconds


class Bucket:
    """A token bucket that a whole minute's worth fits in; it fills as time goes on.

    What was taken may be more than there was, since what a request takes is known when it has run: then nothing can be
    taken until that is made up for.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit`: of a minute."""
        self.limit = limit
        self._clock = clock
        self._level = float(limit)
        self._at = clock()

    @property
    def level(self) -> float:
        """What can be taken now; below 0 where it is in debt."""
        now = self._clock()
        self._level = min(float(self.limit), self._level + (now - self._at) * self.limit / MINUTE)
        self._at = now
        return self._level

    @property
    def remaining(self) -> int:
        """As `level`, in whole ones."""
        return max(0, math.floor(self.level))

    def take(self, amount: int) -> None:
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        """How long until so much can be taken; 0 where it can be now."""
        return max(0.0, (amount - self.level) * MINUTE / self.limit)

    @property
    def seconds_until_full(self) -> float:
        return self.seconds_until(self.limit)
