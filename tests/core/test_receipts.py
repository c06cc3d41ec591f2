"""What a call cost, as it is told."""

import pytest

from server.core.receipts import Stopwatch, Usage


def test_positions_add_up_and_thinned_vectors_are_none() -> None:
    usage = Usage(prompt_tokens=3, summary_vectors=4, thinned_vectors=5, summarised_tokens=6, completion_tokens=7)
    assert usage.total_tokens == 14


def test_time_in_the_engine_is_less_its_queue() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="failed"), watch.engine():
        raise ValueError("failed")
    assert watch.engine_seconds > 0
    watch.engine_seconds, watch.meter.queue_seconds = 3.0, 1.0
    receipt = watch.receipt(saved=-5, cache=None)
    assert (receipt.prefill_tokens_saved, receipt.queue_seconds, receipt.compute_seconds) == (0, 1.0, 2.0)
    watch.meter.queue_seconds = 4.0
    assert watch.compute_seconds == 0.0


def test_the_costliest_source_is_told() -> None:
    watch = Stopwatch()
    watch.meter.known_positions = 8
    assert watch.tier(8, is_computed=True) == "computed"
    assert watch.tier(8, is_computed=False) == "memory"
    assert watch.tier(9, is_computed=False) == "store"
