"""A signal as a request: the step that runs is finished and saved first."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDERR = 2  # a signal handler may not use buffered streams
DOUBLED_SECONDS = 3.0  # schedulers signal every process of a job, and torchrun hands on what it gets: one request


class StopRequest:
    """Whether the process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._noted_at = 0.0

    @property
    def is_made(self) -> bool:
        return self.signal_number is not None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests; another one seconds later has its usual effect."""
        previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self._noted_at = number, time.monotonic()
            os.write(STDERR, b"\nstopping after this step, which is saved; again to stop at once\n")
        elif time.monotonic() - self._noted_at > DOUBLED_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
