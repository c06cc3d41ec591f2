"""An evaluation as Markdown: its rows, its columns, and what they say."""

import math
from dataclasses import replace

import pytest

from training.evaluation.results import Evaluation
from training.evaluation.scores import NO_CONTEXT, Condition, DocumentScore, Domain, DomainScores
from training.evaluation.tables import as_markdown

TOKENS = 10  # a window of a document, two documents
CONTEXTS = (1, 2, 3, 7)


def scored(mean_loss: float) -> list[DocumentScore]:
    """Two documents that differ by as much whatever the condition, so that no difference has an interval."""
    return [DocumentScore(0, (mean_loss - 1) * TOKENS, TOKENS), DocumentScore(1, (mean_loss + 1) * TOKENS, TOKENS)]


def model(none: float, *, compressed: dict[int, float] | None = None, full: dict[int, float]) -> DomainScores:
    return {
        NO_CONTEXT: scored(none),
        **{Condition(count, is_compressed=True): scored(loss) for count, loss in (compressed or {}).items()},
        **{Condition(count, is_compressed=False): scored(loss) for count, loss in full.items()},
    }


MODELS = {
    "AutoCompressor": model(3.0, compressed={1: 2.9, 2: 2.8, 3: 2.75, 7: 2.7}, full={1: 2.6, 2: 2.4, 3: 3.1}),
    "RMT": model(3.0, compressed={1: 2.9, 2: 2.85, 3: 2.85}, full={1: 2.6, 2: 2.4, 3: 2.3}),
    "extended full attention": model(3.2, full={1: 2.7, 2: 2.5, 3: 2.4, 7: 2.2}),
}
EVALUATION = Evaluation(
    segment_length=TOKENS + 1,
    contexts=CONTEXTS,
    max_windows=2,
    domains=(Domain("books", "a", is_in_domain=True), Domain("law", "b")),
    models={label: {"books": scores, "law": scores} for label, scores in MODELS.items()},
)


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each table, its header first."""
    found: list[list[list[str]]] = []
    for block in markdown.split("\n\n"):
        lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
        if lines:
            assert all(len(line) == len(lines[0]) for line in lines)
            found.append([[cell.strip() for cell in line] for line in [lines[0], *lines[2:]]])
    return found


def test_perplexities_of_each_domain() -> None:
    markdown = as_markdown(EVALUATION)
    books, law, *_ = tables(markdown)
    assert markdown.index("**books (in domain)**") < markdown.index("**law (out of domain)**")
    assert books == law
    assert books[0] == ["model", "context", "0", "1", "2", "3", "7"]
    assert [row[:2] for row in books[1:]] == [
        ["AutoCompressor", "compressed"],
        ["AutoCompressor", "in full"],
        ["RMT", "compressed"],
        ["RMT", "in full"],
        ["extended full attention", "in full"],
    ]
    assert books[1][2:] == [f"{math.exp(loss):.2f}" for loss in (3.0, 2.9, 2.8, 2.75, 2.7)]
    assert books[4][2:] == [*(f"{math.exp(loss):.2f}" for loss in (3.0, 2.6, 2.4, 2.3)), "–"]


def test_what_summaries_are_worth() -> None:
    """Within its positions a model is held against itself, beyond them against the extended one."""
    markdown = as_markdown(EVALUATION)
    table = tables(markdown)[2]
    assert table[0] == ["domain", "segments", "change of loss, nats", "share of the gap closed"]
    assert [row for row in table[1:] if row[0] == "books"] == [
        ["books", "1", "-0.100", "25%"],
        ["books", "2", "-0.200", "33%"],
        ["books", "3", "-0.250", "–"],  # the context in full is worse than none
        ["books", "7", "-0.300", "38%†"],
    ]
    assert "AutoCompressor: what its summaries are worth" in markdown
    assert '\n\n† in full: of the model "extended full attention"' in markdown


def test_without_an_extended_model_there_is_no_footnote() -> None:
    models = {label: scores for label, scores in EVALUATION.models.items() if label != "extended full attention"}
    markdown = as_markdown(replace(EVALUATION, models=models))
    assert tables(markdown)[2][4] == ["books", "7", "-0.300", "–"]
    assert "†" not in markdown


def test_against_rmt() -> None:
    table = tables(as_markdown(EVALUATION))[3]
    assert table[0] == ["domain", "0", "1", "2", "3", "7"]
    assert table[1] == ["books", "+0.000", "+0.000", "-0.050", "-0.100", "–"]
    assert [row[0] for row in table[1:]] == ["books", "law", "all domains"]


def test_all_domains_together() -> None:
    """By their tokens, each domain's documents among the rest; a condition that one of them lacks is absent."""
    better = model(2.0, compressed={1: 1.8, 2: 1.7}, full={1: 1.6})
    models = {
        "AutoCompressor": {"books": MODELS["AutoCompressor"], "law": better},
        "RMT": {"books": MODELS["RMT"], "law": MODELS["RMT"]},
    }
    worth, against = tables(as_markdown(replace(EVALUATION, models=models)))[2:]
    assert [row[:3] for row in worth if row[0] == "all domains"] == [
        ["all domains", "1", "-0.150 (-0.200 to -0.100)"],
        ["all domains", "2", "-0.250 (-0.300 to -0.200)"],
    ]
    assert [cell.partition(" (")[0] for cell in against[-1]] == ["all domains", "-0.500", "-0.550", "-0.600", "–", "–"]


def test_one_domain_is_not_repeated_as_all() -> None:
    models = {label: {"books": scores} for label, scores in MODELS.items()}
    markdown = as_markdown(replace(EVALUATION, domains=EVALUATION.domains[:1], models=models))
    assert not any(row[0] == "all domains" for table in tables(markdown) for row in table)


@pytest.mark.parametrize(("label", "num_tables"), [("AutoCompressor", 3), ("extended full attention", 2)])
def test_a_model_alone_has_its_tables_only(label: str, num_tables: int) -> None:
    markdown = as_markdown(replace(EVALUATION, models={label: EVALUATION.models[label]}))
    assert len(tables(markdown)) == num_tables
    assert "RMT" not in markdown


def test_intervals_stand_in_brackets() -> None:
    scores = dict(MODELS["AutoCompressor"])
    scores[Condition(1, is_compressed=True)] = [DocumentScore(0, 18.0, TOKENS), DocumentScore(1, 41.0, TOKENS)]
    evaluation = replace(EVALUATION, models={"AutoCompressor": {"books": scores, "law": MODELS["AutoCompressor"]}})
    row = tables(as_markdown(evaluation))[2][1]
    assert row == ["books", "1", "-0.050 (-0.200 to +0.100)", "12% (-25% to 50%)"]


def test_what_was_scored_and_what_was_recorded() -> None:
    markdown = as_markdown(EVALUATION)
    assert "(11 tokens, its first left out)" in markdown
    assert "Documents (windows): books 2 (2), law 2 (2)." in markdown
    assert "Recorded" not in markdown
    recorded = as_markdown(replace(EVALUATION, recorded=frozenset({"RMT", "extended full attention"})))
    assert "Recorded earlier, not measured now: RMT, extended full attention." in recorded


def test_domains_are_not_told_apart_without_training_files() -> None:
    markdown = as_markdown(replace(EVALUATION, domains=(Domain("books", "a"), Domain("law", "b"))))
    assert "**books**" in markdown
    assert "domain)" not in markdown
