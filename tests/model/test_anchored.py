"""Anchored vectors: which words they stand at, what they are, and when the reading adapter is on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import AutoCompressor
from model.adapter import Adapter
from model.bases.reference import BaseReference, weights_digest
from model.compressors import SegmentSummary, Vocabulary
from model.compressors.anchors import by_importance
from tests.tiny import FAMILIES, random_ids, tiny_anchored, tiny_base, tiny_tokenizer

EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def model() -> AutoCompressor:
    return tiny_anchored()


# --- anchors

# pieces:                  0 "The"  1 " big"  2 " ele" 3 "phant" 4 ","  5 " sat"
VOCABULARY = Vocabulary((True, True, True, False, True, True), (False, False, False, False, True, False))


def test_a_word_of_two_pieces_is_one() -> None:
    assert VOCABULARY.words([0, 1, 2, 3, 4, 5]) == [[0], [1], [2, 3], [5]]


def test_the_most_surprising_words_come_first_and_whole() -> None:
    losses = [1.0, 2.0, 4.0, 4.0, 9.0, 3.0]  # " elephant": 8 / sqrt 2 = 5.7; the comma is no word
    assert by_importance([0, 1, 2, 3, 4, 5], losses, VOCABULARY, 3) == [2, 3, 5]
    assert by_importance([0, 1, 2, 3, 4, 5], losses, VOCABULARY, 1) == [5]  # the first that fits whole


def test_a_word_that_comes_again_stands_at_its_first_place_and_gains() -> None:
    assert by_importance([0, 1, 5, 1], [9.0, 2.0, 2.2, 1.0], VOCABULARY, 2) == [0, 1]


def test_what_words_leave_goes_to_the_highest_losses() -> None:
    assert by_importance([4, 4, 0], [1.0, 3.0, 2.0], VOCABULARY, 3) == [2, 1, 0]
    assert by_importance([4, 4, 0], [1.0, 3.0, 2.0], VOCABULARY, 9) == [2, 1, 0]


def test_a_vocabulary_of_a_tokenizer_knows_words_and_marks() -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = Vocabulary.of(tokenizer, 320)
    ids = tokenizer("wind, and ships", add_special_tokens=False)["input_ids"]
    words = ["".join(tokenizer.decode([ids[place]]) for place in word) for word in vocabulary.words(ids)]
    assert [word.strip() for word in words] == ["wind", "and", "ships"]


# --- vectors


def test_vectors_are_in_the_order_of_the_text_and_ranked(model: AutoCompressor) -> None:
    (summary,) = model.summarise(random_ids(1, 16)[0])
    assert summary.anchors is not None
    assert summary.ranks is not None
    assert summary.anchors.tolist() == sorted(set(summary.anchors.tolist()))
    assert sorted(summary.ranks.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("tokens", "vectors"), [(16, 4), (15, 4), (12, 3), (5, 2), (4, 1), (1, 1)])
def test_a_shorter_segment_gives_as_many_in_proportion(model: AutoCompressor, tokens: int, vectors: int) -> None:
    (summary,) = model.summarise(random_ids(1, tokens)[0])
    assert len(summary) == vectors == model.config.num_vectors(tokens)


def test_an_untrained_vector_is_its_anchors_embedding() -> None:
    untrained = AutoCompressor.from_base(tiny_base("llama"), 4, segment_length=16, compressor="anchored")
    ids = random_ids(1, 16)
    (summary,) = untrained.summarise(ids[0])
    assert summary.anchors is not None
    torch.testing.assert_close(summary.vectors, untrained.embed(ids)[0, summary.anchors], rtol=0, atol=0)


def test_features_are_the_state_at_the_anchor_and_the_mean_of_its_span(model: AutoCompressor) -> None:
    states = torch.randn(1, 6, 32)
    scaled = model.bridge.scale * states / states.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    features = model.bridge.features((states,), torch.tensor([[1, 4]]))
    expected = [torch.cat([scaled[0, 1], scaled[0, :2].mean(0)]), torch.cat([scaled[0, 4], scaled[0, 2:5].mean(0)])]
    torch.testing.assert_close(features[0], torch.stack(expected), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_segment_has_the_same_vectors_wherever_it_stands(family: str) -> None:
    model, ids = tiny_anchored(family), random_ids(1, 32)
    alone = model.compress(ids[:, 16:])
    together = model.compress(ids, segment_lengths=16)
    torch.testing.assert_close(together[:, 4:], alone, **EXACT)
    (_, second) = model.summarise(ids[0])
    torch.testing.assert_close(second.vectors, alone[0], **EXACT)


def test_vectors_do_not_depend_on_batch_mates(model: AutoCompressor) -> None:
    ids = random_ids(3, 16)
    alone = torch.cat([model.compress(row[None]) for row in ids])
    torch.testing.assert_close(model.compress(ids), alone, **EXACT)


def test_thinning_keeps_the_most_important_in_the_order_of_the_text() -> None:
    summary = SegmentSummary(torch.arange(4.0)[:, None], torch.tensor([2, 0, 3, 1]), torch.tensor([1, 5, 6, 9]))
    half = summary.thinned(2)
    assert half.vectors[:, 0].tolist() == [1.0, 3.0]
    assert half.anchors is not None
    assert half.anchors.tolist() == [5, 9]
    assert summary.thinned(7) is summary
    with pytest.raises(ValueError, match=r"2 of 4 vectors are wanted; they have no order"):
        SegmentSummary(summary.vectors).thinned(2)


def test_padding_is_refused(model: AutoCompressor) -> None:
    mask = torch.ones(1, 16, dtype=torch.long)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="cannot be padded"):
        model.compress(random_ids(1, 16), mask)


# --- the adapter


def test_without_vectors_the_model_is_the_untouched_base(model: AutoCompressor) -> None:
    ids = random_ids(1, 12)
    torch.testing.assert_close(model(ids).logits, tiny_base("llama")(ids).logits, **EXACT)


def test_vectors_are_read_with_the_adapter_and_written_without(model: AutoCompressor) -> None:
    assert model.adapter is not None
    ids, vectors = random_ids(1, 12), model.compress(random_ids(1, 16, seed=1))
    read = model(ids, soft_prompt=vectors).logits
    model.adapter.layers, kept = {}, model.adapter.layers
    try:
        with model.adapter.on(is_on=True):
            written = model.compress(random_ids(1, 16, seed=1))
    finally:
        model.adapter.layers = kept
    torch.testing.assert_close(written, vectors, **EXACT)
    plain = AutoCompressor.from_base(tiny_base("llama"), 0)(ids, soft_prompt=vectors).logits
    assert (read - plain).abs().max() > 1e-2


def test_the_merged_weight_is_what_the_adapted_layer_computes(model: AutoCompressor) -> None:
    assert model.adapter is not None
    layer = next(iter(model.adapter.layers.values()))
    states = torch.randn(1, 5, layer.linear.in_features)
    with model.adapter.on():
        expected = layer(states)
    torch.testing.assert_close(states @ layer.merged().T, expected, **EXACT)


def test_generation_reads_with_the_adapter(model: AutoCompressor) -> None:
    ids, vectors = random_ids(1, 6), model.compress(random_ids(1, 16, seed=1))
    made = model.generate(ids, soft_prompt=vectors, max_new_tokens=3).clone()
    for length in range(6, 9):
        logits = model(made[:, :length], soft_prompt=vectors).logits[0, -1]
        assert int(logits.argmax()) == int(made[0, length])


# --- checkpoints


def test_a_whole_checkpoint_round_trip(model: AutoCompressor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoCompressor.from_pretrained(tmp_path)
    ids = random_ids(1, 32)
    torch.testing.assert_close(loaded.compress(ids, segment_lengths=16), model.compress(ids, segment_lengths=16))
    vectors = model.compress(ids, segment_lengths=16)
    # the adapter is stored in bfloat16
    torch.testing.assert_close(
        loaded(ids, soft_prompt=vectors).logits, model(ids, soft_prompt=vectors).logits, rtol=0, atol=0.1
    )
    assert loaded.config == model.config


@pytest.fixture
def stored(model: AutoCompressor, tmp_path: Path) -> Path:
    """An adapter's checkpoint beside the base that it names."""
    tiny_base("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    reference = BaseReference(str(tmp_path / "base"), None, weights_digest(tmp_path / "base"))
    model.save_adapter(tmp_path / "adapter", reference)
    return tmp_path / "adapter"


def test_an_adapter_finds_its_base(model: AutoCompressor, stored: Path) -> None:
    loaded = AutoCompressor.from_pretrained(stored)
    assert not (stored / "config.json").exists()
    assert not list(stored.glob("*.safetensors"))
    ids = random_ids(1, 16)
    torch.testing.assert_close(loaded.compress(ids), model.compress(ids), **EXACT)
    assert loaded.adapter is not None
    assert loaded.tokenizer is not None


def test_an_adapter_says_how_its_model_is_sampled(stored: Path) -> None:
    (stored / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.25}')
    loaded, alone = AutoCompressor.from_pretrained(stored), tiny_base("llama")
    assert loaded.base.generation_config.temperature == 0.25
    assert loaded.base.generation_config.eos_token_id == alone.generation_config.eos_token_id
    assert alone.generation_config.temperature is None


# peft asks what newer releases of transformers call by another name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_reads_the_adapter(model: AutoCompressor, stored: Path) -> None:
    from peft import PeftModel

    loaded = AutoCompressor.from_pretrained(stored)
    theirs = PeftModel.from_pretrained(tiny_base("llama"), stored / "autocompressor" / "reader")
    ids, vectors = random_ids(1, 12), model.compress(random_ids(1, 16, seed=1))
    embeds = torch.cat([vectors, model.embed(ids)], dim=1)
    torch.testing.assert_close(
        loaded(ids, soft_prompt=vectors).logits, theirs(inputs_embeds=embeds).logits[:, 4:], **EXACT
    )


def test_a_wrong_base_is_refused_by_name(stored: Path) -> None:
    tiny_base("llama", seed=5).save_pretrained(stored.parent / "base")
    with pytest.raises(
        ValueError, match=r"is not the one that the checkpoint was trained on: its weights have the digest"
    ):
        AutoCompressor.from_pretrained(stored)


def test_a_base_that_is_gone_is_named(stored: Path) -> None:
    (stored.parent / "base").rename(stored.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        AutoCompressor.from_pretrained(stored)


@pytest.mark.parametrize(
    "file", ["bridge.safetensors", "reader/adapter_config.json", "reader/adapter_model.safetensors"]
)
def test_a_missing_file_is_named(stored: Path, file: str) -> None:
    (stored / "autocompressor" / file).unlink()
    with pytest.raises(FileNotFoundError, match=Path(file).name):
        AutoCompressor.from_pretrained(stored)


def test_an_adapter_of_another_shape_is_refused_by_name(stored: Path) -> None:
    path = stored / "autocompressor" / "reader" / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, path)
    with pytest.raises(ValueError, match=rf"{name} is \(\d+, \d+\), and the base needs"):
        AutoCompressor.from_pretrained(stored)
    save_file({key: weight for key, weight in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"lacks {name}"):
        AutoCompressor.from_pretrained(stored)


def test_the_fingerprint_covers_base_bridge_and_adapter(model: AutoCompressor) -> None:
    prints = {model.fingerprint}
    assert model.adapter is not None
    weights = (model.bridge.gain, next(iter(model.adapter.parameters())), model.base.get_input_embeddings().weight)
    for weight in weights:
        with torch.no_grad():
            weight.view(-1)[0] += 1
            prints.add(model.fingerprint)
            weight.view(-1)[0] -= 1
    assert len(prints) == 4


def test_a_layer_that_the_base_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="has no linear layer 'w_proj' to adapt"):
        Adapter.put_into(tiny_base("llama"), ("q_proj", "w_proj"), rank=2, alpha=4)
