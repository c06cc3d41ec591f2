"""Differences and shares by hand, and the width of their intervals."""

import numpy as np
import pytest

from training.evaluation.intervals import Estimate, change_of_loss, share_of_gap
from training.evaluation.scores import DocumentScore


def scores(*losses: float, tokens: int = 10) -> list[DocumentScore]:
    return [DocumentScore(place, loss, tokens) for place, loss in enumerate(losses)]


def test_documents_that_agree_leave_no_doubt() -> None:
    change = change_of_loss(scores(20.0, 30.0, 40.0), scores(21.0, 31.0, 41.0))
    assert (change.value, change.low, change.high) == pytest.approx((-0.1, -0.1, -0.1))
    share = share_of_gap(scores(30.0, 50.0), scores(28.0, 48.0), scores(26.0, 46.0))
    assert share == Estimate(0.5, 0.5, 0.5)


def test_a_change_is_a_mean_over_tokens() -> None:
    before = [DocumentScore(0, 10.0, 10), DocumentScore(1, 90.0, 30)]
    after = [DocumentScore(0, 8.0, 10), DocumentScore(1, 96.0, 30)]
    change = change_of_loss(after, before)
    assert change.value == pytest.approx(4 / 40)
    # of four equally likely draws two are of one document twice: each end of the interval is one of them
    assert (change.low, change.high) == pytest.approx((-0.2, 0.2))


def test_the_interval_is_the_bootstrap_s() -> None:
    """As wide as 1.96 standard errors to each side, for many documents."""
    losses = np.random.default_rng(5).normal(size=400)
    change = change_of_loss(scores(*losses, tokens=1), scores(*np.zeros(400), tokens=1))
    error = losses.std() / 20
    assert change.low == pytest.approx(losses.mean() - 1.96 * error, abs=0.15 * error)
    assert change.high == pytest.approx(losses.mean() + 1.96 * error, abs=0.15 * error)
    assert change_of_loss(scores(*losses, tokens=1), scores(*np.zeros(400), tokens=1)) == change


def test_pairing_takes_out_what_documents_share() -> None:
    """Documents differ by far more than the models do: unpaired, the difference would be lost in it."""
    hard = np.random.default_rng(1).normal(100, 30, size=20)
    change = change_of_loss(scores(*(hard - 1)), scores(*hard))
    assert change.high - change.low < 1e-9


def test_a_share_is_of_sums() -> None:
    share = share_of_gap(scores(30.0, 50.0), scores(29.0, 45.0), scores(28.0, 40.0))
    assert share is not None
    assert share.value == pytest.approx((1 + 5) / (2 + 10))
    uneven = share_of_gap(scores(30.0, 50.0), scores(29.0, 40.0), scores(28.0, 40.0))
    assert uneven is not None
    assert (uneven.value, uneven.low, uneven.high) == pytest.approx((11 / 12, 0.5, 1.0))


@pytest.mark.parametrize("full", [(31.0, 51.0), (30.0, 50.0), (20.0, 51.0)], ids=["worse", "equal", "unsure"])
def test_there_is_no_share_of_a_gap_that_may_not_be_there(full: tuple[float, float]) -> None:
    assert share_of_gap(scores(30.0, 50.0), scores(29.0, 49.0), scores(*full)) is None


@pytest.mark.parametrize(
    "others", [scores(1.0), scores(1.0, 2.0, tokens=9), scores(0.0, 1.0, 2.0)[1:]], ids=["fewer", "tokens", "places"]
)
def test_other_documents_are_refused(others: list[DocumentScore]) -> None:
    with pytest.raises(ValueError, match="different documents or tokens"):
        change_of_loss(scores(1.0, 2.0), others)
