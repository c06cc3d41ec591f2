"""What a row found: counts, figures, and what was required and is not so."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

MOST_TOLD = 20  # faults of one row


class Skipped(Exception):
    """A row that cannot be run here; the message says why."""


@dataclass
class Outcome:
    """One row; `counts` in the order in which they are shown, `faults` a line each."""

    row: str
    did: str
    counts: dict[str, int | float | str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    skipped: str | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def add(self, name: str, number: int) -> None:
        """Count so many more."""
        self.counts[name] = int(self.counts.get(name, 0)) + number

    def require(self, is_so: bool, otherwise: str) -> None:
        """What has to be so; the row has failed where it is not."""
        if not is_so:
            self.faults.append(otherwise)

    @property
    def verdict(self) -> str:
        if self.skipped is not None:
            return f"skipped: {self.skipped}"
        return f"{len(self.faults)} faults" if self.faults else "holds"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share is not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def shown(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, a row each."""
    rows = []
    for one in outcomes:
        counts = "; ".join(f"{name} {shown(value)}" for name, value in one.counts.items())
        rows.append(f"| `{one.row}` | {one.did} | {counts or '–'} | {one.verdict} | {one.seconds:.0f} |")
    head = ["| row | what is done | counts and figures | verdict | seconds |", "|---|---|---|---|---:|"]
    return "\n".join([*head, *rows])


def write_json(outcomes: Sequence[Outcome], path: Path) -> None:
    told = [{name: value for name, value in asdict(one).items() if name != "started"} for one in outcomes]
    path.write_text(json.dumps({"rows": told}, indent=2, ensure_ascii=False) + "\n")
