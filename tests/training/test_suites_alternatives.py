"""Other forms of a text in the positions of its vectors: as many of each, which tokens they are, and what they cost."""

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import TEXT, random_ids
from tests.training.bench import SEGMENT, VECTORS, anchored_compressor, cell, compressor, options_of
from training.bench.drawing import drawn_by_domain
from training.bench.reader import Reader, joined
from training.bench.rivals.costs import HELD, prefill_flops, stored_bytes
from training.bench.rivals.kv_selection import cache_bytes
from training.bench.rivals.substitutes import (
    ANCHORS,
    ATTENTION,
    END,
    FULL,
    KEY_NORM,
    SURPRISING,
    forms,
    most_surprising,
    selections,
)
from training.bench.suites import alternatives
from training.data.tokenizer import train_tokenizer

SCORED, CONTEXT = alternatives.SCORED, alternatives.SEGMENTS * SEGMENT
AS_VECTORS = "vectors"


@pytest.mark.parametrize("accumulate_summary", [True, False], ids=["accumulating", "newest alone"])
@torch.no_grad()
def test_every_form_has_as_many_positions_as_the_vectors(accumulate_summary: bool) -> None:
    reader = Reader.of(compressor(accumulate_summary=accumulate_summary))
    found = forms(reader, random_ids(2, CONTEXT))
    expected = VECTORS * (alternatives.SEGMENTS if accumulate_summary else 1)
    assert {name: form.positions for name, form in found.items()} == {
        "none": 0,
        FULL: CONTEXT,
        AS_VECTORS: expected,
        END: expected,
        SURPRISING: expected,
    }
    assert torch.equal(found[END].ids, random_ids(2, CONTEXT)[:, -expected:])  # type: ignore[arg-type]


@torch.no_grad()
def test_surprising_tokens_are_those_of_the_greatest_loss_in_the_order_of_the_text() -> None:
    reader = Reader.of(compressor())
    ids = random_ids(1, SEGMENT)
    logits = reader.model(ids).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    losses = torch.cat([torch.tensor([5.0]), losses])  # of the first, which nothing predicts
    places = sorted(range(SEGMENT), key=lambda place: -float(losses[place]))[:6]
    assert most_surprising(reader, ids, 6)[0].tolist() == ids[0, sorted(places)].tolist()


@torch.no_grad()
def test_anchors_as_text_are_the_tokens_that_the_vectors_stand_at() -> None:
    reader = Reader.of(anchored_compressor())
    ids = torch.tensor([reader.encode("The keeper of the lighthouse counts ships. " * 40)[:CONTEXT]])
    found = forms(reader, ids)
    expected = [
        int(segment[anchor])
        for segment, one in zip(ids[0].split(SEGMENT), reader.model.summarise(ids[0]), strict=True)
        for anchor in one.anchors  # type: ignore[union-attr]
    ]
    assert found[ANCHORS].ids is not None
    assert found[ANCHORS].ids[0].tolist() == expected
    assert found[ANCHORS].positions == found[AS_VECTORS].positions


def test_flops_by_hand_and_the_adapter_s_own() -> None:
    plain, adapted = Reader.of(compressor()), Reader.of(anchored_compressor())
    base = plain.model.base
    linear = sum(weight.numel() for name, weight in base.model.named_parameters() if "proj" in name)
    width, layers = base.config.hidden_size, base.config.num_hidden_layers
    expected = 2 * linear * 10 + 4 * width * layers * 55 + 2 * width * base.config.vocab_size
    assert prefill_flops(plain, 10, has_vectors=True) == expected
    assert prefill_flops(plain, 10, num_held=7) == expected + 4 * width * layers * 10 * 7
    assert adapted.model.adapter is not None
    own = 2 * 10 * sum(weight.numel() for weight in adapted.model.adapter.parameters())
    assert prefill_flops(adapted, 10, has_vectors=False) == expected
    assert prefill_flops(adapted, 10, has_vectors=True) == expected + own


@torch.no_grad()
def test_selected_keys_and_values_are_as_many_as_vectors_and_give_the_losses_of_each_row() -> None:
    reader = Reader.of(compressor())
    tokens, kept = random_ids(2, CONTEXT + SCORED + 1), alternatives.SEGMENTS * VECTORS
    found = dict(alternatives.InPlaceOfVectors(reader)(tokens))
    alone = dict(alternatives.InPlaceOfVectors(reader)(tokens[1:]))
    for name, prefix in selections(reader, tokens[1, :CONTEXT], kept):
        assert prefix.num_cached == kept
        torch.testing.assert_close(found[name][1:], alone[name], rtol=0, atol=1e-4)  # type: ignore[index]
    assert {KEY_NORM, ATTENTION} <= found.keys()
    assert list(selections(reader, random_ids(1, 2049)[0], kept)) == []  # one more than its positions


@torch.no_grad()
def test_stored_bytes_by_hand() -> None:
    reader = Reader.of(compressor())
    found = forms(reader, random_ids(2, CONTEXT))
    assert stored_bytes(found[AS_VECTORS]) == alternatives.SEGMENTS * VECTORS * reader.model.hidden_size * 4  # float32
    assert stored_bytes(found[SURPRISING]) == alternatives.SEGMENTS * VECTORS * 4
    assert stored_bytes(found["none"]) == 0


def test_the_tables_follow_from_the_sums(tmp_path: Path) -> None:
    reader, options = Reader.of(anchored_compressor()), options_of("alternatives", tmp_path)
    alternatives.run(reader, options).write(options)
    found = json.loads((options.out / "alternatives.json").read_text())
    sums = found["measured"]["documents"]["law"]
    assert sums.keys() == {"none", FULL, AS_VECTORS, ANCHORS, SURPRISING, END, KEY_NORM, ATTENTION}
    assert len({tuple((document, tokens) for document, _, tokens in rows) for rows in sums.values()}) == 1

    def total(way: str) -> float:
        return float(sum(nll for _, nll, _ in sums[way]))

    shares, losses, costs = found["tables"]
    tokens = sum(tokens for _, _, tokens in sums["none"])
    gained = cell(losses, "gain", domain="law", form=END)
    assert gained["value"] == pytest.approx((total("none") - total(END)) / tokens)
    closed = cell(shares, END, domain="law")
    expected = (total("none") - total(END)) / (total("none") - total(FULL))
    assert closed is None or closed["value"] == pytest.approx(expected)
    assert cell(costs, "positions", form=AS_VECTORS) == str(alternatives.SEGMENTS * VECTORS)
    assert cell(costs, "seconds to the first token", form=FULL)["value"] > 0
    assert cell(costs, "positions", form=HELD) == str(CONTEXT)
    assert cell(costs, "bytes a document", form=HELD) == f"{cache_bytes(reader.model, CONTEXT):,}"
    assert cell(costs, "positions", form=KEY_NORM) == str(alternatives.SEGMENTS * VECTORS)
    assert len(found["measured"]["costs"][FULL]["seconds"]) == 4  # two windows of each of two domains
    assert (options.out / "alternatives.png").stat().st_size > 0


def test_a_model_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vectors of 4 segments of 16 tokens need more than 2048 positions, or"):
        alternatives.run(Reader.of(compressor(summary_length=0)), options_of("alternatives", tmp_path))


@pytest.fixture
def rmt(tmp_path: Path) -> Path:
    compressor(accumulate_summary=False).save_pretrained(tmp_path / "rmt")
    return tmp_path / "rmt"


def test_a_checkpoint_beside_is_measured_by_its_vectors(rmt: Path, tmp_path: Path) -> None:
    options = options_of("alternatives", tmp_path, samples=1, beside={"RMT": rmt})
    alternatives.run(Reader.of(compressor()), options).write(options)
    found = json.loads((options.out / "alternatives.json").read_text())
    ((_, nll, tokens),) = found["measured"]["documents"]["law"]["RMT"]
    windows = drawn_by_domain(
        options.documents(Reader.load(rmt, None).tokenizer), CONTEXT + SCORED + 1, 1, seed=options.seed
    )
    model = Reader.load(rmt, None)
    window = torch.from_numpy(windows["law"].tokens)
    prompt = joined(model.summaries(window[:, :CONTEXT]))
    losses = model.losses(window[:, CONTEXT:], SCORED, prompt)
    assert losses is not None
    assert (nll, tokens) == (pytest.approx(losses.sum().item(), rel=1e-5), SCORED)
    assert cell(found["tables"][2], "positions", form="RMT") == f"{VECTORS}"


def test_what_cannot_stand_beside_is_refused(rmt: Path, tmp_path: Path) -> None:
    reader = Reader.of(compressor())
    with pytest.raises(ValueError, match="--beside vectors: the name is that of a form"):
        alternatives.readers_beside(reader, options_of("alternatives", tmp_path, beside={"vectors": rmt}), CONTEXT)
    other = compressor()
    other.tokenizer = train_tokenizer([TEXT], vocabulary_size=300, max_positions=128)
    with pytest.raises(ValueError, match="RMT has another tokenizer"):
        alternatives.readers_beside(
            Reader.of(other), options_of("alternatives", tmp_path, beside={"RMT": rmt}), CONTEXT
        )
    compressor(summary_length=0).save_pretrained(tmp_path / "plain")
    plain = options_of("alternatives", tmp_path, beside={"plain": tmp_path / "plain"})
    with pytest.raises(ValueError, match="plain has no vectors of 64 tokens in segments of 16"):
        alternatives.readers_beside(reader, plain, CONTEXT)
