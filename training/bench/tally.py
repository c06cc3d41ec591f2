"""Losses of windows under named conditions, summed by document."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.bench.outcome import Number
from training.evaluation.intervals import Estimate, change_of_loss, mean_loss, share_of_gap
from training.evaluation.scorer import by_document
from training.evaluation.scores import TOGETHER, DocumentScore
from training.evaluation.windows import DomainWindows

NONE = "none"
SIDES = ("in domain", "out of domain")
BATCH = 4

Scores = Mapping[str, Sequence[DocumentScore]]
"""Of one domain, by condition; what did not fit is absent."""

Conditions = Callable[[Tensor], Iterator[tuple[str, Tensor | None]]]
"""Of a batch of windows, (B, L): names of conditions, and their losses (B, T) of the same tokens or None."""


def tallied(windows: Mapping[str, DomainWindows], conditions: Conditions, name: str) -> dict[str, Scores]:
    """Losses of every domain's windows under all conditions, and of all domains together."""
    found: dict[str, Scores] = {}
    with tqdm(total=sum(map(len, windows.values())), unit=" windows", desc=name) as progress:
        for domain, drawn in windows.items():
            sums: dict[str, list[float]] = {}
            counts: dict[str, int] = {}
            for tokens in drawn.batches(BATCH):
                for condition, losses in conditions(torch.from_numpy(tokens)):
                    if losses is not None:
                        sums.setdefault(condition, []).extend(losses.sum(dim=1).tolist())
                        counts[condition] = losses.shape[1]
                progress.update(len(tokens))
            found[domain] = {each: by_document(sums[each], drawn, counts[each]) for each in sums}
    return with_all(found)


def with_all(found: dict[str, Scores]) -> dict[str, Scores]:
    """The scores by domain, and of all domains together where there are several, under conditions that all have."""
    return found if len(found) < 2 else found | {TOGETHER: _together(list(found.values()))}


def with_sides(found: Mapping[str, Scores], inside: Collection[str]) -> dict[str, Scores]:
    """The same with two rows more, before that of all: of the domains that have training documents, and the others.

    Args:
        inside: the domains that have. Where all or none have, nothing is added.
    """
    domains = {name: scores for name, scores in found.items() if name != TOGETHER}
    sides = [[name for name in domains if (name in inside) == is_inside] for is_inside in (True, False)]
    if not all(sides):
        return dict(found)
    rows = {row: _together([domains[name] for name in side]) for row, side in zip(SIDES, sides, strict=True)}
    return domains | rows | {TOGETHER: found[TOGETHER]}


def _together(several: Sequence[Scores]) -> Scores:
    shared = [each for each in several[0] if all(each in scores for scores in several)]
    return {each: [score for scores in several for score in scores[each]] for each in shared}


def loss(scores: Scores, condition: str) -> Number | None:
    """Mean loss a token, in nats."""
    return Number(mean_loss(scores[condition])) if condition in scores else None


def gain(scores: Scores, condition: str, reference: str = NONE) -> Estimate | None:
    """By how much the loss is lower than under the reference, nats a token, paired by document."""
    if condition not in scores or reference not in scores:
        return None
    return change_of_loss(scores[reference], scores[condition])


def share(scores: Scores, condition: str, full: str, none: str = NONE) -> Estimate | None:
    """(none - condition) / (none - full); None where one is absent or the gap is not clearly above 0."""
    if any(each not in scores for each in (condition, full, none)):
        return None
    return share_of_gap(scores[none], scores[condition], scores[full])


def signed(estimate: Estimate | None) -> Number | None:
    return None if estimate is None else Number(estimate, "{:+.3f}")


def percent(estimate: Estimate | None) -> Number | None:
    return None if estimate is None else Number(estimate, "{:.0%}")


def as_json(found: Mapping[str, Scores]) -> dict[str, Any]:
    """Sums by document: [document, nats, tokens]."""
    return {
        domain: {
            condition: [[score.document, score.nll, score.tokens] for score in each]
            for condition, each in scores.items()
        }
        for domain, scores in found.items()
        if domain != TOGETHER
    }
