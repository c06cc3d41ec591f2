"""What a reply says of its own cost, in its body and in headers."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from server.core.receipts import Expanded, Receipt, Stopwatch, Usage
from server.http.schemas import receipts


def shown_receipt(receipt: Receipt) -> receipts.Receipt:
    return receipts.Receipt(**asdict(receipt))


def shown_usage(usage: Usage) -> receipts.Usage:
    return receipts.Usage(**asdict(usage), total_tokens=usage.total_tokens)


def shown_expansion(expanded: Sequence[Expanded]) -> list[receipts.ExpandedSegment]:
    return [receipts.ExpandedSegment(**asdict(each)) for each in expanded]


def headers(watch: Stopwatch) -> dict[str, str]:
    """The times of a call; of a stream, as far as it is when its first event is sent."""
    return timing_headers(watch.meter.queue_seconds, watch.compute_seconds, watch.started)


def timing_headers(queue_seconds: float, compute_seconds: float, started: float) -> dict[str, str]:
    """As TGI and TEI name them."""
    seconds = {
        "x-queue-time": queue_seconds,
        "x-inference-time": compute_seconds,
        "x-total-time": time.monotonic() - started,
    }
    return {name: f"{value:.6f}" for name, value in seconds.items()}
