"""Taking turns, medians and spread, and the rows of the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

UNIT_FORMATS = {"×": "{:.2f}×", "%": "{:.0f}%", "ms": "{:,.1f} ms", "s": "{:,.2f} s"}


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, their least and their greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        experiment: its name, E1 to E17. what: was measured. value: what the target speaks of, in `unit`.
        sides: what that comes of, by who it is of, in `side_unit`; empty where the value is one measurement.
        target: the least, or where `is_limit` the most, that the value should be.
    """

    experiment: str
    what: str
    value: Spread
    unit: str
    target: float
    is_limit: bool = False
    sides: Mapping[str, Spread] = field(default_factory=dict)
    side_unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value.median <= self.target if self.is_limit else self.value.median >= self.target


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side measured in each round, A B A B …, after one round that warms up and is not kept."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            value = measure()
            if number:
                measured[name].append(value)
    return measured


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Round by round, so that what slows the machine for a while slows both."""
    return Spread.of([one / other for one, other in zip(over, under, strict=True)])


def compared(
    experiment: str,
    what: str,
    measured: Mapping[str, Sequence[float]],
    *,
    side: str = "ours",
    peer: str,
    target: float,
    side_unit: str,
) -> Row:
    """A row whose value is one side's over a peer's, both being the more the better."""
    spreads = {name: Spread.of(measured[name]) for name in (side, peer)}
    value = ratios(measured[side], measured[peer])
    return Row(experiment, f"{what}, {side} / {peer}", value, "×", target, sides=spreads, side_unit=side_unit)


def as_markdown(rows: Sequence[Row]) -> str:
    lines = ["| | what | measured | spread | target | met | sides |", "|---|---|---:|---:|---:|---|---|"]
    for row in rows:
        bound = "≤" if row.is_limit else "≥"
        spread = f"{_shown(row.value.low, row.unit)} to {_shown(row.value.high, row.unit)}"
        sides = "; ".join(f"{name} {_shown(side.median, row.side_unit)}" for name, side in row.sides.items())
        cells = [
            row.experiment,
            row.what,
            _shown(row.value.median, row.unit),
            spread,
            f"{bound} {_shown(row.target, row.unit)}",
            "yes" if row.is_met else "no",
            sides or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float, unit: str) -> str:
    return UNIT_FORMATS.get(unit, f"{{:,{'.0f' if value >= 100 else '.3g'}}} {unit}").format(value)
