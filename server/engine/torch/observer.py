"""The engine's part in the metrics: what it holds, what a step took, how long requests and tokens had to wait."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.protocol import FinishReason
from server.engine.torch.requests import Compression, Generation, Piece, Request, Scoring
from server.engine.torch.scheduler import Scheduler
from server.metrics import Metrics

KINDS = {Compression: "segment", Generation: "generate", Scoring: "score"}  # of requests, as the metrics name them


@dataclass
class Load:
    """What an engine holds now.

    Attributes:
        used: share of its rows of the KV pool. prefix_bytes: of what it keeps of prompts.
    """

    running: int = 0
    waiting: int = 0
    used: float = 0.0
    prefix_bytes: int = 0


class Loads:
    """What the engines of a server hold, in its metrics: all of them together, of shares the largest."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loads: list[Load] = []

    def of_another(self) -> Load:
        """Where one more engine writes what it holds."""
        self._loads.append(Load())
        return self._loads[-1]

    def tell(self) -> None:
        """What an engine holds has changed."""
        self._metrics.running.set(sum(load.running for load in self._loads))
        self._metrics.waiting.set(sum(load.waiting for load in self._loads))
        self._metrics.kv_usage.set(max(load.used for load in self._loads))
        self._metrics.prefix_bytes.set(sum(load.prefix_bytes for load in self._loads))


class EngineObserver:
    """Told by the engine what happens; writes the metrics, and the meters of requests that have one."""

    def __init__(self, metrics: Metrics, loads: Loads) -> None:
        self._metrics = metrics
        self._loads, self._load = loads, loads.of_another()

    def load(self, scheduler: Scheduler) -> None:
        self._load.running = scheduler.num_running
        self._load.waiting = scheduler.num_waiting
        self._load.used = scheduler.num_running / scheduler.limits.max_running
        self._loads.tell()

    def rejection(self) -> None:
        self._metrics.rejections.labels(reason="queue_full").inc()

    def start(self, piece: Piece, now: float) -> None:
        """A piece goes into a batch; the first of its request ends that one's wait."""
        request = piece.request
        self._metrics.tokens.labels(phase=piece.phase.value).inc(piece.num_positions)
        if request.started_at is not None:
            return
        request.started_at = now
        waited = now - request.submitted_at
        self._metrics.queue_wait_seconds.labels(kind=KINDS[type(request)]).observe(waited)
        if isinstance(request, Generation | Scoring):
            self._metrics.prompt_tokens.inc(len(request.prompt_ids))
        if request.given_hashes:
            self._prefix(request)
        if request.meter is not None:
            request.meter.queue_seconds = max(request.meter.queue_seconds, waited)
            num_vectors = min(request.num_known, request.soft_prompt_length)
            request.meter.known_positions += num_vectors
            request.meter.known_tokens += request.num_known - num_vectors
        if request.tally is not None:
            request.tally.begin(waited=waited, tokens_in=request.num_tokens, cached_positions=request.num_known)

    def _prefix(self, request: Request) -> None:
        """A request whose beginning may be in memory begins."""
        known = request.num_known
        looked_for = request.strip_length if isinstance(request, Generation) else request.soft_prompt_length
        self._metrics.prefix_queries.labels(outcome="hit" if known else "miss").inc()
        self._metrics.prefix_positions.labels(outcome="hit").inc(known)
        self._metrics.prefix_positions.labels(outcome="miss").inc(max(0, looked_for - known))

    def prefix_bytes(self, num_bytes: int) -> None:
        """What is kept of prompts has changed."""
        self._load.prefix_bytes = num_bytes
        self._loads.tell()

    def step(self, pieces: Sequence[Piece], seconds: float) -> None:
        self._metrics.step_seconds.observe(seconds)
        self._metrics.batch_size.observe(len({id(piece.request) for piece in pieces}))
        self._metrics.step_tokens.observe(sum(piece.num_positions for piece in pieces))

    def vectors(self, number: int) -> None:
        self._metrics.summary_vectors.inc(number)

    def token(self, request: Generation, reason: FinishReason | None) -> None:
        """A token is there, with the reason it is the last one for, if it is."""
        now = time.monotonic()
        self._metrics.generated_tokens.inc()
        if request.tally is not None:
            request.tally.token(now, reason)
        if request.last_token_at is None:
            self._metrics.time_to_first_token_seconds.observe(now - request.submitted_at)
            self._metrics.prefill_seconds.observe(now - (request.started_at or request.submitted_at))
        else:
            self._metrics.inter_token_seconds.observe(now - request.last_token_at)
        request.last_token_at = now
        if reason is not None:
            self._metrics.finished.labels(reason=reason).inc()
