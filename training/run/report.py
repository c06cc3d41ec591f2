"""What a finished run leaves to look at: curves as PNG, tables as Markdown, how it was made as JSON."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.atomic import written_aside
from training.loop.records import Record, read_records
from training.recipes.recipe import Recipe, Stage

SMOOTHED_STEPS = 25  # the share of steps is noise: curves show a running mean over these
COLOURS = ("#1f77b4", "#d95f02")


def write_report(directory: Path, *, run: Path, recipe: Recipe, evaluation: str) -> None:
    """Write `directory`: curves.png, table.md, and the run's run.json.

    Args:
        run: the run's directory, whose stages have their steps.jsonl. evaluation: Markdown that follows the stages.
    """
    stages: dict[str, tuple[Stage, list[Record]]] = {}
    for name, stage in (("pretraining", recipe.pretraining), ("adaptation", recipe.adaptation)):
        records = read_records(run / name / "steps.jsonl")
        if stage is not None and records:
            stages[name] = (stage, records)
    with written_aside(directory) as aside:
        aside.mkdir()
        draw_curves({name: records for name, (_, records) in stages.items()}, aside / "curves.png")
        (aside / "table.md").write_text(f"# {recipe.name}\n\n{stage_table(stages)}\n\n{evaluation}\n")
        shutil.copy(run / "run.json", aside / "run.json")


def stage_table(stages: Mapping[str, tuple[Stage, Sequence[Record]]]) -> str:
    """A row for each stage: what it read, how fast, and its loss over the last steps."""
    lines = ["| stage | steps | tokens | tokens/s (median) | loss | by segment |", "|---|---:|---:|---:|---:|---|"]
    for name, (stage, records) in stages.items():
        last = records[-SMOOTHED_STEPS:]
        tokens = len(records) * stage.sequence_tokens * stage.batch_sequences
        rate = np.median([record.tokens_per_second for record in records])
        loss = np.mean([record.loss for record in last])
        segments = np.mean([record.segment_losses for record in last], axis=0)
        by_segment = " ".join(f"{value:.3f}" for value in segments) if len(segments) > 1 else ""
        lines.append(f"| {name} | {len(records):,} | {tokens / 1e6:,.1f}M | {rate:,.0f} | {loss:.3f} | {by_segment} |")
    return "\n".join(lines)


def draw_curves(stages: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Draw a row for each stage: loss, loss by segment, learning rate and gradient norm, tokens a second."""
    figure = Figure(figsize=(16, 3.6 * max(1, len(stages))), layout="constrained")
    grid = figure.subplots(max(1, len(stages)), 4, squeeze=False)
    for row, (name, records) in zip(grid, stages.items(), strict=False):
        steps = np.array([record.step for record in records])
        losses = np.array([record.loss for record in records])
        _curve(row[0], steps, losses, f"{name}: loss, nats a token")
        segments = np.array([record.segment_losses for record in records])
        for index, column in enumerate(segments.T):
            row[1].plot(steps, running_mean(column), label=f"segment {index + 1}", linewidth=1)
        row[1].set_title("loss by segment")
        if segments.shape[1] > 1:
            row[1].legend(fontsize="x-small", ncols=2)
        _curve(row[2], steps, np.array([record.gradient_norm for record in records]), "gradient norm, learning rate")
        rates = row[2].twinx()
        rates.plot(steps, [record.learning_rate for record in records], color=COLOURS[1], linewidth=1)
        rates.set_ylim(bottom=0)
        _curve(row[3], steps, np.array([record.tokens_per_second for record in records]), "tokens a second")
        row[3].set_ylim(bottom=0)
        for axes in row:
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=110)


def _curve(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], title: str) -> None:
    axes.plot(steps, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    axes.plot(steps, running_mean(values), color=COLOURS[0], linewidth=1.5)
    axes.set_title(title)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each value and up to `SMOOTHED_STEPS` - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - SMOOTHED_STEPS)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means
