"""Figures as cells of Markdown tables."""

import math
from collections.abc import Iterable, Sequence

from training.evaluation.intervals import Estimate

ABSENT = "–"


def interval(estimate: Estimate, number: str) -> str:
    """The value, and its interval unless it has no width, as that of a single document."""
    value, low, high = (number.format(one) for one in (estimate.value, estimate.low, estimate.high))
    return value if math.isclose(estimate.low, estimate.high, rel_tol=1e-9) else f"{value} ({low} to {high})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_text_columns: int) -> str:
    rule = ["---"] * num_text_columns + ["---:"] * (len(header) - num_text_columns)
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
