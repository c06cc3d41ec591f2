"""In-context learning: tasks as files, demonstrations in turn, labels scored as the model gives them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.bench import SEGMENT, anchored_compressor, cell, compressor, options_of, write_jsonl
from training.bench.prefix import Prefix
from training.bench.reader import Reader
from training.bench.suites import icl
from training.bench.suites.icl import Answered
from training.bench.tasks import TEMPLATE, Example, Task, balanced, read_tasks

RECORDS: list[dict[str, Any]] = [
    {"text": f"The {thing} was {word}.", "label": label}
    for thing in ("stove", "stair", "book", "cat")
    for label, word in (("good", "warm"), ("bad", "cold"), ("good", "kind"))
]
TASK = Task("mood", "Line: {text}\nMood: {label}", tuple(Example(**record) for record in RECORDS))


def test_a_task_is_read_with_its_template(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mood.jsonl", [{"template": TASK.template}, *RECORDS])
    write_jsonl(tmp_path / "plain.jsonl", RECORDS)
    mood, plain = read_tasks(tmp_path)
    assert mood == TASK
    assert (plain.name, plain.template) == ("plain", TEMPLATE)
    assert read_tasks(tmp_path / "mood.jsonl") == [TASK]
    assert mood.labels == ["bad", "good"]


def test_the_label_s_first_token_has_the_blank_before_it() -> None:
    example = TASK.examples[0]
    assert TASK.asked(example.text) == "Line: The stove was warm.\nMood:"
    assert TASK.ending("good") == " good"
    assert TASK.shown(example) == "Line: The stove was warm.\nMood: good\n\n"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"template": "{label} {text}"}, *RECORDS], "needs one {text}, and {label} at its end"),
        ([*RECORDS, {"text": "x"}], 'line 13: expected "text" and "label"'),
        (RECORDS[:3], "has 3 records of 2 labels; 4 of 2 labels are the least"),
        ([each for each in RECORDS if each["label"] == "good"], "has 8 records of 1 labels"),
    ],
)
def test_files_that_are_no_tasks_are_refused(records: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad\.jsonl") as caught:
        read_tasks(write_jsonl(tmp_path / "bad.jsonl", records))
    assert message in str(caught.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no JSONL file of labelled texts at"):
        read_tasks(tmp_path)


def test_labels_take_turns() -> None:
    examples = [Example(str(number), label) for number, label in enumerate("aaabbc")]
    assert [example.label for example in balanced(examples)] == list("abcaba")
    assert sorted(example.text for example in balanced(examples)) == list("012345")


def test_tests_are_no_demonstrations() -> None:
    tests, rest = icl.split(TASK, 100, np.random.default_rng(0))
    assert len(tests) == 6
    assert {example.label for example in tests} == {"bad", "good"}
    assert sorted([*tests, *rest], key=str) == sorted(TASK.examples, key=str)
    reader = Reader.of(compressor())
    shown = icl.demonstrations(reader, TASK, rest, np.random.default_rng(0))
    assert len(shown) == max(icl.SEGMENTS) * SEGMENT
    assert reader.decode(shown).startswith(tuple(TASK.shown(example)[:20] for example in rest))


@torch.no_grad()
def test_labels_are_scored_after_the_demonstrations_and_calibrated() -> None:
    reader = Reader.of(anchored_compressor())
    shown = icl.demonstrations(reader, TASK, TASK.examples, np.random.default_rng(1))
    prefixes = dict(icl.forms(reader, shown))
    assert prefixes.keys() == {icl.ZERO} | {
        form(count) for form in (icl.as_vectors, icl.as_many, icl.in_full) for count in icl.SEGMENTS
    }
    vectors = torch.cat([one.vectors for one in reader.summaries(shown[None, : 2 * SEGMENT])[0]])

    def mean(text: str, label: str) -> float:
        ids = torch.tensor(reader.encode(TASK.asked(text)) + reader.encode(TASK.ending(label)))
        losses = reader.losses(ids[None], len(reader.encode(TASK.ending(label))), vectors[None])
        assert losses is not None
        return -losses.mean().item()

    found = icl.scores(reader, prefixes[icl.as_vectors(2)], TASK, "The cat was warm.")
    expected = [mean("The cat was warm.", label) - mean("N/A", label) for label in ("bad", "good")]
    assert found == pytest.approx(expected, abs=1e-4)
    assert icl.scores(reader, Prefix.read(reader), TASK, "The cat was warm. " * 300) is None


def test_accuracy_by_hand() -> None:
    found = [
        Answered("mood", "zero", draw, example, right)
        for draw, rights in enumerate(([True, False], [True, True]))
        for example, right in enumerate(rights)
    ]
    estimate = icl.accuracy(found, "mood", "zero")
    assert estimate is not None
    assert estimate.value == 0.75
    assert icl.accuracy(found, "mood", "other") is None


@pytest.mark.parametrize("kind", ["anchored", "rmt"])
def test_the_suite_s_table_follows_from_its_answers(kind: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mood.jsonl", [{"template": TASK.template}, *RECORDS])
    options = options_of("icl", tmp_path, samples=4, tasks=path)
    reader = Reader.of(anchored_compressor() if kind == "anchored" else compressor(accumulate_summary=False))
    icl.run(reader, options).write(options)
    found = json.loads((options.out / "icl.json").read_text())
    answers = found["measured"]["answers"]
    assert len(answers) == 4 * (1 + icl.DRAWS * 3 * len(icl.SEGMENTS))
    rights = [right for _, form, _, _, right in answers if form == "2 as vectors"]
    accuracy = cell(found["tables"][0], "mood", demonstrations="2 as vectors")
    assert accuracy["value"] == pytest.approx(sum(rights) / len(rights))
    assert cell(found["tables"][0], "mood", demonstrations="chance") == "50.0%"
