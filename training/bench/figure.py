"""Panels of lines with intervals, drawn side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from training.evaluation.intervals import Estimate

COLUMNS = 3


@dataclass(frozen=True)
class Line:
    """A labelled row of points: places on the x axis, and what was measured there; None is left out."""

    label: str
    points: Sequence[tuple[float | str, Estimate | None]]


@dataclass(frozen=True)
class Panel:
    """One diagram."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    is_logarithmic: bool = False


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels as one PNG."""
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(path, format="png", dpi=110)


def _panel(axes: Axes, panel: Panel) -> None:
    for number, line in enumerate(panel.lines):
        found = [(x, estimate) for x, estimate in line.points if estimate is not None]
        if not found:
            continue
        values = [estimate.value for _, estimate in found]
        # of a quantile of few documents the interval can miss the value itself
        below = [max(0.0, estimate.value - estimate.low) for _, estimate in found]
        above = [max(0.0, estimate.high - estimate.value) for _, estimate in found]
        places = [x for x, _ in found]
        colour = f"C{number % 10}"
        axes.errorbar(places, values, [below, above], label=line.label, color=colour, marker="o", capsize=2)
    if panel.is_logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="x-small")
