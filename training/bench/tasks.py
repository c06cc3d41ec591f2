"""Classification tasks for in-context learning: files of labelled texts, and how an example reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATE = "Text: {text}\nLabel: {label}"
LEAST = 4  # records of a task: two labels, each in a demonstration and in a test


@dataclass(frozen=True)
class Example:
    text: str
    label: str


@dataclass(frozen=True)
class Task:
    """Labelled texts.

    Attributes:
        template: how an example reads, with `{text}` and at the end `{label}`.
    """

    name: str
    template: str
    examples: tuple[Example, ...]

    @property
    def labels(self) -> list[str]:
        return sorted({example.label for example in self.examples})

    def shown(self, example: Example) -> str:
        """A demonstration, with the blank line after it."""
        return f"{self.asked(example.text)}{self.ending(example.label)}\n\n"

    def asked(self, text: str) -> str:
        """An example up to its label, without the blank before that: the label's first token has it."""
        before = self.template.partition("{label}")[0]
        return before.replace("{text}", text).rstrip()

    def ending(self, label: str) -> str:
        before = self.template.partition("{label}")[0]
        return before[len(before.rstrip()) :] + label


def read_tasks(path: Path) -> list[Task]:
    """Read a JSONL file, or all of a folder, a task each: records `{"text", "label"}`.

    A first record `{"template"}` says how an example reads; the default is `TEMPLATE`.

    Raises:
        ValueError: there is no such file, a line is something else, or a task has too few records or labels.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"there is no JSONL file of labelled texts at {path}; --tasks names one or a folder")
    return [_task(file) for file in files]


def _task(path: Path) -> Task:
    template, examples = TEMPLATE, list[Example]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        record = _record(path, number, line)
        if number == 1 and set(record) == {"template"}:
            template = _checked(path, str(record["template"]))
        elif {"text", "label"} <= set(record):
            examples.append(Example(str(record["text"]), str(record["label"])))
        else:
            raise ValueError(f'{path}, line {number}: expected "text" and "label"')
    task = Task(path.stem, template, tuple(examples))
    if len(examples) < LEAST or len(task.labels) < 2:
        raise ValueError(
            f"{path} has {len(examples)} records of {len(task.labels)} labels; {LEAST} of 2 labels are the least"
        )
    return task


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: no JSON") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}, line {number}: expected an object")
    return record


def _checked(path: Path, template: str) -> str:
    if template.count("{text}") != 1 or not template.endswith("{label}") or template.count("{label}") != 1:
        raise ValueError(f"{path}: the template {template!r} needs one {{text}}, and {{label}} at its end")
    return template


def balanced(examples: Sequence[Example]) -> list[Example]:
    """The same, one of each label in turn, as long as there are; the rest after them."""
    waiting: dict[str, list[Example]] = {}
    for example in examples:
        waiting.setdefault(example.label, []).append(example)
    turns = max(map(len, waiting.values()), default=0)
    return [found[turn] for turn in range(turns) for found in waiting.values() if turn < len(found)]
