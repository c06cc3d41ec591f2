"""What was measured comes back from JSON, and only what is of the same windows is put together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.evaluation.results import Evaluation
from training.evaluation.scores import NO_CONTEXT, Condition, DocumentScore, Domain, conditions_of, perplexity

SCORES = {
    NO_CONTEXT: [DocumentScore(0, 30.5, 10), DocumentScore(2, 70.25, 20)],
    Condition(3, is_compressed=True): [DocumentScore(0, 20.0, 10), DocumentScore(2, 60.0, 20)],
}
EVALUATION = Evaluation(
    segment_length=11,
    contexts=(1, 3),
    max_windows=4,
    domains=(Domain("books", "5eed", is_in_domain=True), Domain("law", "1aw5")),
    models={"AutoCompressor": {"books": SCORES, "law": SCORES}},
)
OTHER = replace(EVALUATION, models={"RMT": EVALUATION.models["AutoCompressor"]})


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    EVALUATION.merged(OTHER).write(path)
    found = Evaluation.read(path)
    assert found == EVALUATION.merged(OTHER)
    assert [domain.is_in_domain for domain in found.domains] == [True, False]
    assert found.recorded == {"AutoCompressor", "RMT"}
    score = json.loads(path.read_text())["models"]["RMT"]["law"]["3 compressed"][1]
    assert score == {"document": 2, "nll": 60.0, "tokens": 20}


@pytest.mark.parametrize("stored", [[], {"models": {}}, {"format_version": 2}], ids=["list", "fields", "version"])
def test_another_file_is_refused(stored: object, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    EVALUATION.write(path)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | stored if stored == {"format_version": 2} else stored))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"evaluation\.json is not an evaluation of format_version 1"):
        Evaluation.read(path)


def test_models_of_the_same_windows_are_merged() -> None:
    unordered = replace(OTHER, domains=OTHER.domains[::-1], contexts=(2, 3), recorded=frozenset({"RMT"}))
    merged = EVALUATION.merged(unordered)
    assert list(merged.models) == ["AutoCompressor", "RMT"]
    assert merged.domains == EVALUATION.domains
    assert merged.contexts == (1, 2, 3)
    assert merged.recorded == {"RMT"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(OTHER, segment_length=12), "segment_length is 11 in one and 12 in the other"),
        (replace(OTHER, max_windows=5), "max_windows is 4 in one and 5 in the other"),
        (replace(OTHER, domains=OTHER.domains[:1]), r"domains is \['books', 'law'\] in one and \['books'\] in"),
        (replace(OTHER, domains=(OTHER.domains[0], Domain("law", "other"))), "the tokens of law differ"),
        (EVALUATION, "both evaluations have a model labelled AutoCompressor"),
    ],
)
def test_what_cannot_be_compared_is_not_merged(other: Evaluation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EVALUATION.merged(other)


def test_some_models_under_other_labels() -> None:
    both = replace(EVALUATION.merged(OTHER), recorded=frozenset({"RMT"}))
    found = both.only({"RMT": "older"})
    assert dict(found.models) == {"older": OTHER.models["RMT"]}
    assert found.recorded == {"older"}


def test_conditions_are_found_by_name() -> None:
    conditions = conditions_of((3, 1))
    names = ["no context", "1 compressed", "3 compressed", "1 in full", "3 in full"]
    assert [condition.name for condition in conditions] == names
    assert [Condition.parse(name) for name in names] == conditions


@pytest.mark.parametrize("name", ["", "3", "0 compressed", "3 halves", "-1 compressed", "03 in full"])
def test_an_unknown_condition(name: str) -> None:
    with pytest.raises(ValueError, match="is no condition"):
        Condition.parse(name)


def test_perplexity_is_of_all_tokens() -> None:
    """Not the mean of the documents' own: e^3.3583 here, and those are e^3.05 and e^3.5125."""
    assert perplexity(SCORES[NO_CONTEXT]) == pytest.approx(28.741, abs=1e-3)
