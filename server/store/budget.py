"""How many bytes a store may have, and who is told what it does to stay within them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _unheard(_: int) -> None:
    pass


@dataclass(frozen=True)
class Budget:
    """Of all spaces of a store together, and of single ones.

    Attributes:
        max_bytes: most bytes of values, keys and what SQLite or Redis add left out; None has no bound, and nothing is
            ever evicted.
        quotas: by the name of a space, most bytes of its own values. Asked at each put: whoever made it may change it.
        on_bytes: hears how many bytes values have, after each put and ping.
        on_evicted: hears how many documents a put evicted.
    """

    max_bytes: int | None = None
    on_bytes: Callable[[int], None] = _unheard
    on_evicted: Callable[[int], None] = _unheard
    quotas: Mapping[str, int] = field(default_factory=dict)


UNBOUNDED = Budget()
