"""How many bytes a store may have, and who is told what it does to stay within them."""

from collections.abc import Callable
from dataclasses import dataclass


def _unheard(_: int) -> None:
    pass


@dataclass(frozen=True)
class Budget:
    """Of all spaces of a store together.

    Attributes:
        max_bytes: most bytes of values, keys and what SQLite or Redis add left out; None has no bound, and nothing is
            ever evicted.
        on_bytes: hears how many bytes values have, after each put and ping.
        on_evicted: hears how many documents a put evicted.
    """

    max_bytes: int | None = None
    on_bytes: Callable[[int], None] = _unheard
    on_evicted: Callable[[int], None] = _unheard


UNBOUNDED = Budget()
