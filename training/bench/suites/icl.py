"""In-context learning from summaries of demonstrations, as Table 4 of arXiv 2305.14788 (section 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.bench.figure import Line, Panel
from training.bench.options import Options
from training.bench.outcome import Cell, Number, Outcome, Table
from training.bench.prefix import Ending, Prefix
from training.bench.reader import Reader, joined
from training.bench.tasks import Example, Task, balanced, read_tasks
from training.evaluation.intervals import Estimate
from training.evaluation.intervals import ratio as mean_of

SEGMENTS = (1, 2, 3)
DRAWS = 3  # of demonstrations
NOTHING = "N/A"  # the text that the labels are calibrated on
ZERO = "no demonstrations"


@dataclass(frozen=True)
class Answered:
    """Whether a test example of a task was answered rightly, under a form of the demonstrations of a draw."""

    task: str
    form: str
    draw: int
    example: int
    is_right: bool


def as_vectors(count: int) -> str:
    return f"{count} as vectors"


def in_full(count: int) -> str:
    return f"{count} in full"


def as_many(count: int) -> str:
    return f"{count}: text of equal positions"


def split(task: Task, num_tests: int, random: np.random.Generator) -> tuple[list[Example], list[Example]]:
    """Test examples, at most half of the task's, and the rest for demonstrations; both with all labels in turn."""
    order = balanced([task.examples[number] for number in random.permutation(len(task.examples))])
    count = min(num_tests, len(order) // 2)
    return order[:count], order[count:]


def demonstrations(reader: Reader, task: Task, examples: Sequence[Example], random: np.random.Generator) -> Tensor:
    """Demonstrations one after another, (L,) ids, all labels in turn; again from the first where there are too few."""
    wanted = max(SEGMENTS) * reader.model.segment_length
    order = balanced([examples[number] for number in random.permutation(len(examples))])
    ids: list[int] = []
    while len(ids) < wanted:
        ids += [token for example in order for token in reader.encode(task.shown(example))]
    return torch.tensor(ids[:wanted])


def forms(reader: Reader, shown: Tensor) -> Iterator[tuple[str, Prefix]]:
    """No demonstrations; and of each number of segments the vectors, the text, and as much text as vectors take."""
    yield ZERO, Prefix.read(reader)
    length, kept = reader.model.segment_length, reader.model.summary_length
    for count in SEGMENTS:
        text = shown[: count * length]
        if reader.can_summarise(count):
            prompt = joined(reader.summaries(text[None]))
            assert prompt is not None, "nothing is thinned"
            if reader.fits(prompt.shape[1], 1):
                yield as_vectors(count), Prefix.read(reader, (), prompt[0])
        if reader.fits(0, len(text) + 1):
            yield in_full(count), Prefix.read(reader, text)
        yield as_many(count), Prefix.read(reader, shown[: count * kept])


def scores(reader: Reader, prefix: Prefix, task: Task, text: str) -> list[float] | None:
    """Each label's mean log-probability a token after a text, less that after no text; None where it is too long."""
    endings = []
    for given in (text, NOTHING):
        asked = reader.encode(task.asked(given))
        for label in task.labels:
            ids = reader.encode(task.ending(label))
            endings.append(Ending([*asked, *ids], len(ids)))
    losses = prefix.losses(endings)
    if losses is None:
        return None
    means = [-float(each.mean()) for each in losses]
    count = len(task.labels)
    return [mean - calibration for mean, calibration in zip(means[:count], means[count:], strict=True)]


def answers(reader: Reader, task: Task, num_tests: int, seed: int) -> Iterator[Answered]:
    """Every test example under every form of every draw of demonstrations."""
    random = np.random.default_rng(seed)
    tests, rest = split(task, num_tests, random)
    for draw in range(DRAWS):
        for form, prefix in forms(reader, demonstrations(reader, task, rest, random)):
            if form == ZERO and draw > 0:
                continue
            for number, example in enumerate(tests):
                found = scores(reader, prefix, task, example.text)
                if found is not None:
                    chosen = task.labels[int(np.argmax(found))]
                    yield Answered(task.name, form, draw, number, chosen == example.label)


def run(reader: Reader, options: Options) -> Outcome:
    tasks = read_tasks(options.tasks or options.data)
    found: list[Answered] = []
    for task in tqdm(tasks, unit=" tasks", desc=options.suite):
        found += answers(reader, task, options.number, options.seed)
    return _outcome(reader, tasks, found)


def _outcome(reader: Reader, tasks: Sequence[Task], found: Sequence[Answered]) -> Outcome:
    model = reader.model
    sizes = ", ".join(
        f"{task.name} {len({each.example for each in found if each.task == task.name})} of {len(task.examples)}"
        for task in tasks
    )
    notes = [
        f"Accuracy after demonstrations with all labels in turn: segments of {model.segment_length} tokens as "
        f"{model.summary_length} vectors each, in full, or so many tokens of them as the vectors have positions. The "
        f"label with the highest mean log-probability a token is the answer, less that after the text {NOTHING!r} "
        f"(contextual calibration). Means over {DRAWS} draws of demonstrations; intervals over test examples.",
        f"Test examples: {sizes}.",
    ]
    return Outcome(
        heading="in-context learning",
        counted="test examples a task",
        notes=notes,
        tables=[_table(tasks, found)],
        panels=[_panel(task, found) for task in tasks],
        measured={"answers": [[each.task, each.form, each.draw, each.example, each.is_right] for each in found]},
    )


def accuracy(found: Sequence[Answered], task: str, form: str) -> Estimate | None:
    """Over draws, with an interval over test examples; None where nothing was answered."""
    by_example: dict[int, list[int]] = {}
    for each in found:
        if (each.task, each.form) == (task, form):
            by_example.setdefault(each.example, []).append(int(each.is_right))
    if not by_example:
        return None
    rights = np.array([sum(each) for each in by_example.values()], dtype=np.float64)
    return mean_of(rights, np.array([len(each) for each in by_example.values()], dtype=np.int64))


def _table(tasks: Sequence[Task], found: Sequence[Answered]) -> Table:
    names = [ZERO, *(kind(count) for kind in (as_vectors, as_many, in_full) for count in SEGMENTS)]
    rows: list[list[Cell]] = [
        [name, *(_cell(accuracy(found, task.name, name)) for task in tasks)]
        for name in names
        if any(each.form == name for each in found)
    ]
    chance: list[Cell] = ["chance", *(f"{1 / len(task.labels):.1%}" for task in tasks)]
    return Table("Accuracy", ["demonstrations", *(task.name for task in tasks)], [chance, *rows])


def _cell(estimate: Estimate | None) -> Number | None:
    return None if estimate is None else Number(estimate, "{:.1%}")


def _panel(task: Task, found: Sequence[Answered]) -> Panel:
    lines = [
        Line(label, [(count, accuracy(found, task.name, kind(count))) for count in SEGMENTS])
        for label, kind in (("vectors", as_vectors), ("text of equal positions", as_many), ("in full", in_full))
    ]
    return Panel(task.name, "segments of demonstrations", "accuracy", lines)
