"""Requests while the engine holds them: plain Python, the runner's tensors passing through unread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from server.engine.detokenizer import Detokenizer
from server.engine.protocol import SamplingParams


class Phase(Enum):
    """What a forward pass does for one request."""

    SEGMENT = "segment"
    PREFILL = "prefill"
    DECODE = "decode"
    SCORE = "score"


@dataclass(eq=False)
class Request:
    """What all requests share.

    Attributes:
        deliver: hands one result, or an exception, to whoever waits; called on the engine's thread.
        is_cancelled: set by the waiting side; seen at the next step.
        is_ended: its last result was delivered.
    """

    deliver: Callable[[Any], None]
    is_cancelled: bool = field(default=False, init=False)
    is_ended: bool = field(default=False, init=False)
    submitted_at: float = field(default_factory=time.monotonic, init=False)
    started_at: float | None = field(default=None, init=False)


@dataclass(eq=False)
class Generation(Request):
    """One sequence. `row` is its place in the KV pool while it runs; `num_cached` how much of the row is written."""

    soft_prompt: Any
    soft_prompt_length: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    detokenizer: Detokenizer
    generator: Any
    row: int | None = field(default=None, init=False)
    num_cached: int = field(default=0, init=False)
    generated: list[int] = field(default_factory=list, init=False)
    last_token_at: float | None = field(default=None, init=False)

    @property
    def num_prompt_positions(self) -> int:
        return self.soft_prompt_length + len(self.prompt_ids)


@dataclass(eq=False)
class Compression(Request):
    """One document: a segment at a time, each waiting for the vectors of the one before it."""

    segments: Sequence[Sequence[int]]
    soft_prompt: Any
    soft_prompt_length: int
    next_segment: int = field(default=0, init=False)


@dataclass(eq=False)
class Scoring(Request):
    """One prompt and its continuations, a piece each."""

    soft_prompt: Any
    soft_prompt_length: int
    prompt_ids: tuple[int, ...]
    continuations: Sequence[tuple[int, ...]]
    next_continuation: int = field(default=0, init=False)
    results: dict[int, Any] = field(default_factory=dict, init=False)


@dataclass(frozen=True, eq=False)
class Piece:
    """What one forward pass runs of one request: `num_positions` of them.

    `index` is the segment or the continuation it is; 0 for a generation.
    """

    request: Request
    phase: Phase
    num_positions: int
    index: int = 0
