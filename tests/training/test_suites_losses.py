"""The suites that score the next tokens: conditions as the model gives them, tables that follow from the sums."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from model import AutoCompressor
from tests.tiny import random_ids, tiny_base
from tests.training.bench import SEGMENT, VECTORS, anchored_compressor, cell, compressor, options_of
from training.bench.drawing import drawn_by_domain
from training.bench.options import Options
from training.bench.outcome import Outcome
from training.bench.reader import Reader
from training.bench.suites import depth, perplexity

SCORED = perplexity.SCORED


def stored(outcome: Outcome, options: Options) -> dict[str, Any]:
    outcome.write(options)
    found: dict[str, Any] = json.loads((options.out / f"{options.suite}.json").read_text())
    return found


def loss_after(model: AutoCompressor, tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Mean loss of the last `SCORED` tokens of (B, L), all segments but the last being compressed."""
    logits = model(tokens, segment_lengths=lengths).logits[:, -SCORED - 1 : -1]
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, -SCORED:], reduction="none").mean(dim=1)


@torch.no_grad()
def test_perplexity_conditions_are_what_the_model_gives() -> None:
    model = compressor()
    tokens = random_ids(2, 8 * SEGMENT + 256 + SCORED)
    base = Reader.of(AutoCompressor.from_base(tiny_base("llama", seed=7), 0, tokenizer=model.tokenizer))
    found = {
        name: losses.mean(dim=1)
        for name, losses in perplexity.NextTokens(Reader.of(model), base)(tokens)
        if losses is not None
    }
    tail = tokens[:, -SCORED - 1 :]
    context = tokens[:, -SCORED - 1 - 2 * SEGMENT :]
    far = tokens[:, -SCORED - 64 - SEGMENT :]
    expected = {
        "none": loss_after(model, tail, [SCORED + 1]),
        "2 as vectors": loss_after(model, context, [SEGMENT, SEGMENT, SCORED + 1]),
        "2 in full": loss_after(model, context, [2 * SEGMENT + SCORED + 1]),
        "none, 64 raw": loss_after(model, tokens[:, -SCORED - 64 :], [SCORED + 64]),
        "1 as vectors, 64 raw": loss_after(model, far, [SEGMENT, SCORED + 64]),
        "1 in full, 64 raw": loss_after(model, far, [SEGMENT + SCORED + 64]),
    }
    for name, losses in expected.items():
        torch.testing.assert_close(found[name], losses, rtol=0, atol=1e-4)
    assert "untouched base" not in found  # whose 128 positions are too few
    assert not any("kept" in name for name in found)


def test_perplexity_tables_follow_from_the_sums(tmp_path: Path) -> None:
    options = options_of("perplexity", tmp_path)
    found = stored(perplexity.run(Reader.of(anchored_compressor()), options), options)
    sums = found["measured"]["documents"]
    assert sums.keys() == {"books", "law"}
    assert "In domain: books." in " ".join(found["notes"])

    def mean(condition: str) -> float:
        rows = sums["law"][condition]
        return float(sum(nll for _, nll, _ in rows) / sum(tokens for _, _, tokens in rows))

    by_segments, _, fewer, without = found["tables"]
    none, vectors, full = mean("none"), mean("4 as vectors"), mean("4 in full")
    assert cell(by_segments, "as vectors", domain="law", segments="4")["value"] == pytest.approx(vectors)
    assert cell(by_segments, "gain of vectors", domain="law", segments="4")["value"] == pytest.approx(none - vectors)
    closed = cell(by_segments, "share of the gap closed", domain="law", segments="4")
    assert closed is None or closed["value"] == pytest.approx((none - vectors) / (none - full))
    half = cell(fewer, "8x", domain="law", segments="4")
    assert half is None or half["value"] == pytest.approx((none - mean("4 as vectors, 1/2 kept")) / (none - full))
    assert {"4 as vectors, 1/2 kept", "4 as vectors, 1/4 kept"} <= sums["law"].keys()
    assert cell(without, "untouched base", domain="law") is None
    assert [row[0] for row in without["rows"]] == ["books", "law", "in domain", "out of domain", "all domains"]
    of_side = cell(by_segments, "as vectors", domain="out of domain", segments="4")
    assert of_side["value"] == pytest.approx(vectors)  # law is the only one


def test_the_untouched_base_is_measured_where_it_is_given(tmp_path: Path) -> None:
    model = compressor()
    model.base.save_pretrained(tmp_path / "base")
    assert model.tokenizer is not None
    model.tokenizer.save_pretrained(tmp_path / "base")
    options = options_of("perplexity", tmp_path, samples=1, beside={"base": tmp_path / "base"})
    found = stored(perplexity.run(Reader.of(model), options), options)
    without = found["tables"][3]
    gain = cell(without, "gain over it", domain="books")
    assert gain["value"] == pytest.approx(0, abs=1e-4)  # it is the same base
    with pytest.raises(ValueError, match="--beside RMT: beside this suite stands the untouched base alone"):
        perplexity.run(Reader.of(model), replace(options, beside={"RMT": tmp_path / "base"}))


def test_depth_gains_follow_from_the_sums_and_end_with_the_positions(tmp_path: Path) -> None:
    options = options_of("depth", tmp_path, samples=1)
    long = depth.run(Reader.of(compressor()), options)
    found = stored(long, options)
    assert found["tables"][0]["header"][3:] == ["1", "2", "4", "8", "16", "32", "50"]
    sums = found["measured"]["documents"]["books"]
    expected = (sums["none"][0][1] - sums["50 as vectors"][0][1]) / SCORED
    assert cell(found["tables"][0], "50", domain="books", context="vectors")["value"] == pytest.approx(expected)
    over = (sums["1 as vectors"][0][1] - sums["50 as vectors"][0][1]) / SCORED
    assert cell(found["tables"][1], "50", domain="books")["value"] == pytest.approx(over)
    assert found["measured"]["windows"] == {
        name: each.digest()
        for name, each in drawn_by_domain(
            options.documents(Reader.of(compressor()).tokenizer), 50 * SEGMENT + SCORED + 1, 1, seed=0
        ).items()
    }


def test_a_model_whose_positions_fit_no_depth_is_refused() -> None:
    model = compressor()
    model.positions = replace(model.positions, max_positions=SCORED + 1 + VECTORS)
    assert depth.fitting(Reader.of(model)) == [1]
    model.positions = replace(model.positions, max_positions=SCORED + VECTORS)
    with pytest.raises(ValueError, match="need more than 196 positions"):
        depth.fitting(Reader.of(model))


@torch.no_grad()
def test_the_adapter_alone_is_measured_with_it_on_and_is_off_without_vectors() -> None:
    model = anchored_compressor()
    found = dict(perplexity.NextTokens(Reader.of(model), None)(random_ids(1, 8 * SEGMENT + 256 + SCORED)))
    none, adapted = found["none"], found["adapter on"]
    assert none is not None
    assert adapted is not None
    assert not torch.allclose(none, adapted, atol=1e-3)
    assert model.adapter is not None
    for weight in model.adapter.parameters():
        weight.zero_()
    again = dict(perplexity.NextTokens(Reader.of(model), None)(random_ids(1, 8 * SEGMENT + 256 + SCORED)))
    torch.testing.assert_close(again["none"], none, rtol=0, atol=0)
    torch.testing.assert_close(again["adapter on"], none, rtol=0, atol=1e-4)
