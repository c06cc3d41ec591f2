"""What a call cost."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from server.engine.protocol import Meter

CacheTier = Literal["memory", "store", "computed"]


@dataclass(frozen=True)
class Expanded:
    """A segment that is read as its text: its place among its summary's, from 0, and how many tokens it has.

    `summary_id`: None of what was compressed of the prompt itself, whose segments are counted through.
    """

    summary_id: str | None
    segment: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a reply says of its own cost.

    Attributes:
        prefill_tokens_saved: document tokens that were not read, less the vectors read instead.
        cache: where the summaries came from, the costliest of several; None where the call had none.
        queue_seconds: the longest wait for the engine. compute_seconds: in the engine, after that.
    """

    prefill_tokens_saved: int
    cache: CacheTier | None
    thinned_vectors: int = 0
    expanded: Sequence[Expanded] = ()
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Positions that a call took.

    Attributes:
        prompt_tokens: read as they are. summary_vectors: that were read, of `summarised_tokens` document tokens.
        thinned_vectors: that were left out as less important. completion_tokens: generated or scored.
    """

    prompt_tokens: int
    summary_vectors: int = 0
    thinned_vectors: int = 0
    summarised_tokens: int = 0
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.summary_vectors + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: count + getattr(other, name) for name, count in vars(self).items()})


@dataclass
class Stopwatch:
    """Of one request, from its start; what the engine takes is written to `meter`."""

    started: float = field(default_factory=time.monotonic)
    meter: Meter = field(default_factory=Meter)
    engine_seconds: float = 0.0

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Around what waits for the engine, its queue included."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.engine_seconds += time.monotonic() - since

    @property
    def compute_seconds(self) -> float:
        """In the engine, without its queue."""
        return max(0.0, self.engine_seconds - self.meter.queue_seconds)

    def receipt(
        self, *, saved: int, cache: CacheTier | None, thinned: int = 0, expanded: Sequence[Expanded] = ()
    ) -> Receipt:
        return Receipt(
            prefill_tokens_saved=max(0, saved),
            cache=cache,
            thinned_vectors=thinned,
            expanded=expanded,
            queue_seconds=self.meter.queue_seconds,
            compute_seconds=self.compute_seconds,
        )

    def tier(self, num_vectors: int, *, is_computed: bool) -> CacheTier:
        """Where so many vectors came from, which the engine has read by now."""
        if is_computed:
            return "computed"
        return "memory" if self.meter.known_positions >= num_vectors else "store"
