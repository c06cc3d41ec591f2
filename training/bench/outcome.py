"""What a suite found, and how it is written: tables as Markdown, a picture as PNG, all figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.atomic import written_aside
from training.bench.figure import Panel, draw
from training.bench.options import Options
from training.evaluation.intervals import Estimate
from training.evaluation.markdown import ABSENT, interval, markdown_table
from training.run.surroundings import surroundings

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Number:
    """A figure of a table, and how it is printed."""

    estimate: Estimate
    form: str = "{:.3f}"


Cell = str | Number | None


@dataclass(frozen=True)
class Table:
    """A table; None in a cell is what could not be measured."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_text_columns: int = 1
    note: str = ""

    def as_markdown(self) -> str:
        body = markdown_table(
            self.header, [[_printed(cell) for cell in row] for row in self.rows], num_text_columns=self.num_text_columns
        )
        return "\n\n".join(part for part in (f"**{self.title}.** {self.note}".strip(), body) if part)

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "header": list(self.header),
            "rows": [[_stored(cell) for cell in row] for row in self.rows],
        }


@dataclass(frozen=True)
class Outcome:
    """What a suite measured.

    Attributes:
        heading: what the suite asks. notes: how it was measured, a paragraph each.
        counted: what `samples` counts, such as "windows a domain".
        measured: sums by document or item, from which the tables follow; JSON.
    """

    heading: str
    counted: str
    notes: Sequence[str]
    tables: Sequence[Table]
    panels: Sequence[Panel]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def write(self, options: Options) -> Path:
        """Write `SUITE.json`, `SUITE.md` and `SUITE.png` into the folder; the path of the Markdown file."""
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{options.suite}.md"
        with written_aside(options.out / f"{options.suite}.png") as aside:
            draw(self.panels, aside)
        with written_aside(options.out / f"{options.suite}.json") as aside:
            aside.write_text(json.dumps(self._as_json(options), indent=1) + "\n")
        with written_aside(path) as aside:
            aside.write_text(self.as_markdown(options))
        return path

    def as_markdown(self, options: Options) -> str:
        origin = f"{options.samples} {self.counted}, split {options.split}, seed {options.seed}: `{options.command}`"
        tables = [f"{table.as_markdown()}\n\n{origin}" for table in self.tables]
        closing = "In brackets 95% bootstrap intervals over documents; " + f"{ABSENT} is what could not be measured."
        return "\n\n".join([f"# {options.suite}: {self.heading}", *self.notes, closing, *tables]) + "\n"

    def _as_json(self, options: Options) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "suite": options.suite,
            "command": options.command,
            "checkpoint": str(options.checkpoint),
            "split": options.split,
            "samples": options.samples,
            "counted": self.counted,
            "seed": options.seed,
            "notes": list(self.notes),
            "tables": [table.as_json() for table in self.tables],
            "measured": self.measured,
            "surroundings": surroundings(),
        }


def _printed(cell: Cell) -> str:
    if cell is None:
        return ABSENT
    return interval(cell.estimate, cell.form) if isinstance(cell, Number) else cell


def _stored(cell: Cell) -> Any:
    if not isinstance(cell, Number):
        return cell
    return {"value": cell.estimate.value, "low": cell.estimate.low, "high": cell.estimate.high}
