"""Differences of loss and shares of a gap, with 95% bootstrap intervals over documents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.scores import DocumentScore

RESAMPLES = 2_000
SEED = 0
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval that 95% of the resamples fall into."""

    value: float
    low: float
    high: float


def mean_loss(scores: Sequence[DocumentScore]) -> Estimate:
    """Mean loss a token, in nats."""
    losses, tokens = _paired(scores)
    return ratio(losses[0], tokens)


def change_of_loss(scores: Sequence[DocumentScore], reference: Sequence[DocumentScore]) -> Estimate:
    """Mean loss a token under `scores` minus that under `reference`, in nats: paired, document by document.

    Raises:
        ValueError: they are not of the same documents and tokens.
    """
    losses, tokens = _paired(scores, reference)
    return ratio(losses[0] - losses[1], tokens)


def share_of_gap(
    without: Sequence[DocumentScore], summaries: Sequence[DocumentScore], full: Sequence[DocumentScore]
) -> Estimate | None:
    """(without - summaries) / (without - full): how much of what the full context gains the summaries gain.

    None where the 95% interval of the gap itself is not above 0: a share of it would mean nothing.

    Raises:
        ValueError: they are not of the same documents and tokens.
    """
    losses, tokens = _paired(without, summaries, full)
    gap = losses[0] - losses[2]
    return ratio(losses[0] - losses[1], gap) if ratio(gap, tokens).low > 0 else None


def _paired(*all_scores: Sequence[DocumentScore]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Summed losses, (conditions, documents), and the tokens they are of, (documents,)."""
    places = [[(score.document, score.tokens) for score in scores] for scores in all_scores]
    for other in places[1:]:
        if other != places[0]:
            raise ValueError(f"scores of different documents or tokens: {places[0]} and {other}")
    losses = np.array([[score.nll for score in scores] for scores in all_scores])
    return losses, np.array([tokens for _, tokens in places[0]])


def ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64] | NDArray[np.int64]) -> Estimate:
    """Sum over sum, of all documents and of each resample of them."""
    drawn = np.random.default_rng(SEED).integers(0, len(numerators), (RESAMPLES, len(numerators)))
    low, high = np.quantile(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1), QUANTILES)
    return Estimate(float(numerators.sum() / denominators.sum()), float(low), float(high))
