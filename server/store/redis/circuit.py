"""Calls to a server that does not answer fail at once, after the first few."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis.exceptions import ClusterDownError, ConnectionError, RedisClusterException, TimeoutError  # noqa: A004

from server.store.protocol import StoreUnavailable

MAX_FAILURES = 5  # in a row
OPEN_SECONDS = 2.0
UNREACHABLE = (ConnectionError, TimeoutError, ClusterDownError, RedisClusterException)


class Circuit:
    """Counts calls that the server did not answer; after `MAX_FAILURES` in a row it lets one through now and then.

    redis-py has a breaker for several databases only, on pybreaker, which knows no asyncio; this one is a page.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_failures = 0
        self._closed_until = 0.0  # for calls
        self._is_probing = False
        self._last = ""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call, whose errors are told as StoreUnavailable, `UNREACHABLE` the cause.

        Raises:
            StoreUnavailable: the server did not answer the last calls, and it is not the time to try again.
        """
        is_probe = self._admit()
        try:
            yield
        except StoreUnavailable as error:
            if isinstance(error.__cause__, UNREACHABLE):
                self._failed(str(error))
            else:
                self._num_failures = 0
            raise
        except Exception:
            self._num_failures = 0  # it did answer
            raise
        else:
            self._num_failures = 0
        finally:
            if is_probe:
                self._is_probing = False

    def _admit(self) -> bool:
        """Whether this call is the one that tries."""
        if self._num_failures < MAX_FAILURES:
            return False
        seconds = self._closed_until - self._clock()
        if seconds > 0 or self._is_probing:
            when = f"in {seconds:.1f} seconds" if seconds > 0 else "at this moment"
            raise StoreUnavailable(
                f"Redis did not answer {self._num_failures} calls in a row, and is tried again {when}: {self._last}"
            )
        self._is_probing = True
        return True

    def _failed(self, error: str) -> None:
        self._num_failures += 1
        self._last = error
        if self._num_failures >= MAX_FAILURES:
            self._closed_until = self._clock() + OPEN_SECONDS
