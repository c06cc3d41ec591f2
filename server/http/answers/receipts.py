"""What a reply says of its own cost, in its body and in headers."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from server.core.documents.compression import Compressed
from server.core.documents.summaries import Summary
from server.core.prompts.expansion import Expanded, expanded_segments
from server.core.prompts.prompting import Plan
from server.engine.protocol import Meter
from server.http.schemas.receipts import CacheTier, ExpandedSegment, Receipt


@dataclass
class Stopwatch:
    """Of one request, from its handler's start; what the engine takes is written to `meter`."""

    started: float = field(default_factory=time.monotonic)
    meter: Meter = field(default_factory=Meter)
    engine_seconds: float = 0.0

    def add_engine(self, since: float) -> None:
        """Time waited for the engine, its queue included."""
        self.engine_seconds += time.monotonic() - since

    def receipt(
        self, *, saved: int, cache: CacheTier | None, thinned: int = 0, expanded: Sequence[Expanded] = ()
    ) -> Receipt:
        queue_seconds = self.meter.queue_seconds
        return Receipt(
            prefill_tokens_saved=max(0, saved),
            cache=cache,
            thinned_vectors=thinned,
            expanded=described_expansion(expanded),
            queue_seconds=queue_seconds,
            compute_seconds=max(0.0, self.engine_seconds - queue_seconds),
        )

    def receipt_of(self, plan: Plan) -> Receipt:
        """Of a call that this plan conditions."""
        saved = plan.summarised_tokens - plan.num_positions
        is_computed = any(not isinstance(source, Summary) for source in plan.sources)
        cache = self.tier(plan.num_positions, is_computed=is_computed) if plan.sources else None
        return self.receipt(saved=saved, cache=cache, thinned=plan.thinned_vectors, expanded=expanded_segments(plan))

    def tier(self, num_vectors: int, *, is_computed: bool) -> CacheTier:
        if is_computed:
            return "computed"
        return "memory" if self.meter.known_positions >= num_vectors else "store"

    def headers(self) -> dict[str, str]:
        """As TGI and TEI name them; of a stream, as far as it is when its first event is sent."""
        queue_seconds = self.meter.queue_seconds
        seconds = {
            "x-queue-time": queue_seconds,
            "x-inference-time": max(0.0, self.engine_seconds - queue_seconds),
            "x-total-time": time.monotonic() - self.started,
        }
        return {name: f"{value:.6f}" for name, value in seconds.items()}


def described_expansion(expanded: Sequence[Expanded]) -> list[ExpandedSegment]:
    return [ExpandedSegment(**asdict(each)) for each in expanded]


def compressed_receipt(done: Compressed) -> Receipt:
    """Of a document: the tokens that were not read are those of cached segments."""
    is_cached = done.cached_tokens > 0 and done.engine_seconds == 0
    return Receipt(
        prefill_tokens_saved=done.cached_tokens,
        cache="store" if is_cached else "computed",
        thinned_vectors=0,
        expanded=[],
        queue_seconds=done.queue_seconds,
        compute_seconds=max(0.0, done.engine_seconds - done.queue_seconds),
    )


def compressed_headers(done: list[Compressed], started: float) -> dict[str, str]:
    """The timing headers of documents, compressed together: the longest wait, the longest work."""
    queue_seconds = max(each.queue_seconds for each in done)
    engine_seconds = max(each.engine_seconds - each.queue_seconds for each in done)
    watch = Stopwatch(started, Meter(queue_seconds), queue_seconds + engine_seconds)
    return watch.headers()
