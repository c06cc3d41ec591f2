"""Vectors and positions that are spent in several ways: each as the model gives it, all on the same tokens."""

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import random_ids
from tests.training.bench import SEGMENT, VECTORS, anchored_compressor, cell, compressor, options_of
from training.bench.reader import Reader, joined
from training.bench.suites import budget, hybrid
from training.bench.suites.perplexity import SCORED


@pytest.mark.parametrize("kind", ["anchored", "summary tokens"])
def test_budgets_that_can_be_kept_have_as_many_vectors_as_they_say(kind: str) -> None:
    reader = Reader.of(anchored_compressor() if kind == "anchored" else compressor())
    tokens = random_ids(1, 2 * SEGMENT + SCORED + 1)
    found = {name for name, losses in budget.Spent(reader)(tokens) if losses is not None}
    assert budget.lengths_of(reader) == [4, 8, 16, 32]
    every = [each for length in budget.lengths_of(reader) for each in budget.budgets_of(reader, length) if each]
    kept = {(each.segment_length, each.num_vectors) for each in every if each.name in found}
    if kind == "anchored":  # at the model's own ratio or with fewer vectors
        assert kept == {(4, 1), (8, 2), (8, 1), (16, 4), (16, 2), (16, 1), (32, 8), (32, 4), (32, 2)}
    else:
        assert kept == {(4, 4), (8, 4), (16, 4), (32, 4)}


@torch.no_grad()
def test_a_budget_s_loss_is_that_after_its_vectors() -> None:
    reader = Reader.of(anchored_compressor())
    tokens = random_ids(1, 2 * SEGMENT + SCORED + 1)
    found = dict(budget.Spent(reader)(tokens))
    rows = reader.summaries(tokens[:, : 2 * SEGMENT], 8)
    prompt = joined(rows, 1)
    assert prompt is not None
    assert prompt.shape[1] == 4
    expected = reader.losses(tokens[:, -SCORED - 1 :], SCORED, prompt)
    assert expected is not None
    losses = found["1 vectors of 8 tokens"]
    assert losses is not None
    torch.testing.assert_close(losses, expected)


def test_the_budget_suite_s_table_follows_from_its_sums(tmp_path: Path) -> None:
    options = options_of("budget", tmp_path)
    budget.run(Reader.of(anchored_compressor()), options).write(options)
    found = json.loads((options.out / "budget.json").read_text())
    sums = {name: sum(nll for _, nll, _ in rows) for name, rows in found["measured"]["documents"]["law"].items()}
    (table,) = found["tables"]
    closed = cell(table, "8x", domain="law", tokens_a_segment="16")
    expected = (sums["none"] - sums["2 vectors of 16 tokens"]) / (sums["none"] - sums["in full"])
    assert closed is None or closed["value"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="summary_length is 0"):
        budget.run(Reader.of(compressor(summary_length=0)), options)


@torch.no_grad()
def test_every_form_of_the_same_positions_is_what_it_says() -> None:
    reader = Reader.of(anchored_compressor())
    tokens = random_ids(2, 8 * SEGMENT + SCORED + 1)
    found = dict(hybrid.Mixed(reader)(tokens))
    positions, tail = 2 * VECTORS, tokens[:, -SCORED - 1 :]
    before = tokens[:, : -SCORED - 1]
    raw = positions // 2
    half = joined(reader.summaries(before[:, -raw - SEGMENT : -raw]))
    assert half is not None
    assert half.shape[1] + raw == positions
    sliding = reader.losses(tokens[:, -hybrid.STRIDE - positions :], hybrid.STRIDE)
    expected = {
        hybrid.VECTORS: reader.losses(tail, SCORED, joined(reader.summaries(before[:, -2 * SEGMENT :]))),
        hybrid.RAW: reader.losses(tokens[:, -SCORED - 1 - positions :], SCORED),
        hybrid.BOTH: reader.losses(tokens[:, -SCORED - 1 - raw :], SCORED, half),
    }
    for form, losses in expected.items():
        given = found[hybrid.named(form, positions)]
        assert given is not None
        assert losses is not None
        torch.testing.assert_close(given, losses, rtol=0, atol=1e-5)
    slid = found[hybrid.named(hybrid.SLIDING, positions)]
    assert slid is not None
    assert sliding is not None
    assert slid.shape == (2, SCORED)
    torch.testing.assert_close(slid[:, -hybrid.STRIDE :], sliding, rtol=0, atol=1e-5)


def test_the_hybrid_suite_s_table_follows_from_its_sums(tmp_path: Path) -> None:
    options = options_of("hybrid", tmp_path)
    hybrid.run(Reader.of(compressor()), options).write(options)
    found = json.loads((options.out / "hybrid.json").read_text())
    sums = found["measured"]["documents"]["books"]
    means = {name: sum(row[1] for row in rows) / sum(row[2] for row in rows) for name, rows in sums.items()}
    over_raw = cell(found["tables"][1], hybrid.VECTORS, domain="books", positions="16")
    assert over_raw["value"] == pytest.approx(means["raw window, 16"] - means["vectors, 16"])
    with pytest.raises(ValueError, match="vectors that accumulate"):
        hybrid.run(Reader.of(compressor(accumulate_summary=False)), options)
