"""What a request holds of the bytes that all bodies may have together (`middleware/bodies.py`)."""

from collections.abc import Callable, Mapping
from typing import Any, cast

HELD = "autocompressor.held"  # in a request's scope
SMALL_BYTES = 2**16  # of a body that may take from the reserve


class Held:
    """What one request holds of all bodies' bytes."""

    def __init__(self, count: Callable[..., None]) -> None:
        self._count = count
        self._bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count more of the body; HTTPException where there is no room for it."""
        self._count(num_bytes, is_small=self._bytes + num_bytes <= SMALL_BYTES)
        self._bytes += num_bytes

    def another(self) -> "Held":
        """What one frame of a WebSocket holds, apart from others of its connection."""
        return Held(self._count)

    def release(self) -> None:
        self._count(-self._bytes)
        self._bytes = 0


def held_of(scope: Mapping[str, Any]) -> Held:
    """What the request of this scope holds."""
    return cast(Held, scope[HELD])
