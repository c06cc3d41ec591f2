"""What calls to vLLM took, in this server's metrics, meters and tallies."""

import time
from dataclasses import dataclass, field

from server.engine.protocol import FinishReason, Meter
from server.metrics import Metrics
from server.tally import Tally, current


@dataclass(eq=False)
class Watch:
    """One call, begun when it asks for a place. `kind`: as the metrics name it."""

    metrics: Metrics
    kind: str
    num_tokens: int
    meter: Meter | None
    submitted_at: float = field(default_factory=time.monotonic)
    last_token_at: float | None = None
    tally: Tally | None = field(default_factory=current)

    def start(self) -> None:
        """It has its place; vLLM's own line is not told of."""
        waited = time.monotonic() - self.submitted_at
        self.metrics.queue_wait_seconds.labels(kind=self.kind).observe(waited)
        if self.kind != "segment":
            self.metrics.prompt_tokens.inc(self.num_tokens)
        if self.meter is not None:
            self.meter.queue_seconds = max(self.meter.queue_seconds, waited)
        if self.tally is not None:
            self.tally.begin(waited=waited, tokens_in=self.num_tokens, cached_positions=0)

    def known(self, num_positions: int, num_vectors: int) -> None:
        """So many positions of a prompt that begins with so many vectors were not read again."""
        self.metrics.prefix_queries.labels(outcome="hit" if num_positions else "miss").inc()
        self.metrics.prefix_positions.labels(outcome="hit").inc(num_positions)
        vectors = min(num_positions, num_vectors)
        if self.meter is not None:
            self.meter.known_positions += vectors
            self.meter.known_tokens += num_positions - vectors
        if self.tally is not None:
            self.tally.cached_positions += num_positions

    def token(self, reason: FinishReason | None) -> None:
        """A token is there, with the reason it is the last one for, if it is."""
        now, metrics = time.monotonic(), self.metrics
        metrics.generated_tokens.inc()
        if self.tally is not None:
            self.tally.token(now, reason)
        if self.last_token_at is None:
            metrics.time_to_first_token_seconds.observe(now - self.submitted_at)
        else:
            metrics.inter_token_seconds.observe(now - self.last_token_at)
        self.last_token_at = now
        if reason is not None:
            metrics.finished.labels(reason=reason).inc()
