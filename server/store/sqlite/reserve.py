"""Room on the disk that is kept for making room: without any, SQLite cannot even delete."""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 8 * 2**20  # the log of a deletion, and what the file grows by when the log is written back


class Reserve:
    """A file of that many bytes, beside the store's; it is given up when the disk is full, and made again after.

    Several processes that share a store share its reserve.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._path = path
        self._num_bytes = num_bytes

    def keep(self) -> bool:
        """Make the file where there is none; whether there is one then."""
        if self._path.exists():
            return True
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with open(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                # a file with a hole would reserve nothing
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self._num_bytes)
                else:
                    file.write(bytes(self._num_bytes))
            aside.rename(self._path)
        except OSError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> bool:
        """Give the room to whoever needs it; whether there was some."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
