"""What one request has taken so far, wherever it is worked on: for its line in the log, and its trace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(eq=False)
class Tally:
    """Of one request; the engine's thread writes to it, too. Never a text, never a key.

    Attributes:
        request_id: as its client gave it, or was told it.
        model: the name of the one that was asked.
        queue_seconds: the longest wait for a first forward pass; None where the engine was not asked.
        first_token_seconds: from the request's arrival to the first token that was generated for it.
        tokens_in: of documents, prompts and continuations. tokens_out: generated.
        cached_tokens: of documents, those whose vectors were in the store.
        cached_positions: of soft prompts, those whose keys and values were in memory.
    """

    request_id: str
    model: str | None = field(default=None, init=False)
    trace_id: str | None = field(default=None, init=False)
    started: float = field(default_factory=time.monotonic, init=False)
    queue_seconds: float | None = field(default=None, init=False)
    first_token_seconds: float | None = field(default=None, init=False)
    tokens_in: int = field(default=0, init=False)
    tokens_out: int = field(default=0, init=False)
    cached_tokens: int = field(default=0, init=False)
    cached_positions: int = field(default=0, init=False)
    finish_reasons: set[str] = field(default_factory=set, init=False)

    def begin(self, *, waited: float, tokens_in: int, cached_positions: int) -> None:
        """Account for a call to the engine whose first forward pass begins."""
        self.queue_seconds = max(self.queue_seconds or 0.0, waited)
        self.tokens_in += tokens_in
        self.cached_positions += cached_positions

    def token(self, now: float, finish_reason: str | None) -> None:
        """Account for a token that was generated, the last of its sequence where there is a reason for its end."""
        if self.first_token_seconds is None:
            self.first_token_seconds = now - self.started
        self.tokens_out += 1
        if finish_reason is not None:
            self.finish_reasons.add(finish_reason)

    def cached(self, num_tokens: int) -> None:
        """Account for tokens of a document whose vectors were stored."""
        self.tokens_in += num_tokens
        self.cached_tokens += num_tokens

    @property
    def shown(self) -> dict[str, float | int | str]:
        """Its figures by name, without those that say nothing of this request."""
        seconds = {"queue_seconds": self.queue_seconds, "first_token_seconds": self.first_token_seconds}
        numbers = {
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cached_tokens": self.cached_tokens,
            "cached_positions": self.cached_positions,
        }
        shown: dict[str, float | int | str] = {
            name: round(value, 4) for name, value in seconds.items() if value is not None
        }
        return shown | {name: number for name, number in numbers.items() if number}


_current: ContextVar[Tally | None] = ContextVar("tally", default=None)


def current() -> Tally | None:
    """That of the request in whose name this runs; None where there is none, as on the engine's thread."""
    return _current.get()


@contextmanager
def counting(tally: Tally) -> Iterator[Tally]:
    """The body, and every task that it starts, runs in this request's name."""
    token = _current.set(tally)
    try:
        yield tally
    finally:
        _current.reset(token)
