"""Bases: of the recipe's shape, as stored, and with more positions where asked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from tests.tiny import random_base, random_ids, tiny_anchored, tiny_base, tiny_config, tiny_recipe, tiny_tokenizer
from training.bases.loading import extend_positions, loaded_base, new_base
from training.bases.references import config_source, plain_base, reference_of
from training.recipes.recipe import Base


def stored(directory: Path, family: str = "llama", *, has_tokenizer: bool = True) -> Base:
    tiny_base(family).save_pretrained(directory)
    if has_tokenizer:
        tiny_tokenizer().save_pretrained(directory)
    return Base(family, {}, name=str(directory))


def test_a_new_base_is_of_the_recipe_s_shape() -> None:
    base = new_base(tiny_recipe().base, tiny_tokenizer(), seed=0)
    config = base.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (320, 32, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (2, 1, 128)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 0)
    assert {weight.dtype for weight in base.parameters()} == {torch.float32}


def test_the_seed_sets_a_new_base_and_nothing_else() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        one = new_base(tiny_recipe().base, tiny_tokenizer(), seed=0)
        assert torch.equal(torch.rand(1), expected)
    same, other = (new_base(tiny_recipe().base, tiny_tokenizer(), seed=seed) for seed in (0, 1))
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_is_loaded_in_the_recipe_s_dtype(dtype: str, tmp_path: Path) -> None:
    base = replace(stored(tmp_path), dtype=dtype)
    model, tokenizer = loaded_base(base, str(tmp_path))
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}
    assert len(tokenizer) == 320
    torch.testing.assert_close(model.lm_head.weight, tiny_base("llama").lm_head.weight.to(model.dtype))


def test_a_base_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tokenizer"):
        loaded_base(stored(tmp_path, has_tokenizer=False), str(tmp_path))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_more_positions_leave_the_old_ones(family: str, tmp_path: Path) -> None:
    base, old = replace(stored(tmp_path, family), max_positions=256), tiny_base(family)
    model, _ = loaded_base(base, str(tmp_path))
    assert model.config.max_position_embeddings == 256
    ids = random_ids(1, 200)
    with torch.no_grad():
        short = model(ids[:, :128]).logits
        torch.testing.assert_close(short, old(ids[:, :128]).logits, rtol=0, atol=1e-5)
        long = model(ids).logits
    assert long.isfinite().all()
    torch.testing.assert_close(long[:, :128], short, rtol=0, atol=1e-4)


def test_opt_s_table_is_repeated() -> None:
    model, old = tiny_base("opt"), tiny_base("opt").model.decoder.embed_positions.weight
    extend_positions(model, 384)
    table = model.model.decoder.embed_positions.weight
    assert table.shape == (2 + 384, 32)  # two rows before the first position
    assert torch.equal(table[:2], old[:2])
    for start in (2, 130, 258):
        assert torch.equal(table[start : start + 128], old[2:])
    assert table.requires_grad


def test_positions_that_are_there_already() -> None:
    model = tiny_base("opt")
    before = model.model.decoder.embed_positions.weight.clone()
    extend_positions(model, 128)
    assert torch.equal(model.model.decoder.embed_positions.weight, before)


def test_positions_are_not_cut() -> None:
    with pytest.raises(ValueError, match="has 128 positions; they can be extended, not cut to 64"):
        extend_positions(tiny_base("llama"), 64)


def test_opt_s_positions_by_no_multiple() -> None:
    with pytest.raises(ValueError, match="128 positions is repeated whole: 200 is no multiple"):
        extend_positions(tiny_base("opt"), 200)


def test_learned_positions_of_another_kind() -> None:
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    with pytest.raises(ValueError, match="learned positions of gpt2 cannot be extended"):
        extend_positions(random_base(config), 256)


def test_as_many_tokens_as_positions_are_no_learned_positions() -> None:
    """A vocabulary as large as the number of positions was taken for a table of positions."""
    model = random_base(tiny_config("llama", vocabulary_size=128))
    extend_positions(model, 256)
    assert model.config.max_position_embeddings == 256


def test_an_adapter_checkpoint_leads_to_its_base(tmp_path: Path) -> None:
    stored(tmp_path / "base")
    reference = reference_of(str(tmp_path / "base"), tmp_path / "base")
    assert reference.name == str((tmp_path / "base").resolve())
    tiny_anchored().save_adapter(tmp_path / "adapter", reference)
    assert plain_base(tmp_path / "base") == tmp_path / "base"
    assert plain_base(tmp_path / "adapter") == tmp_path / "base"
    assert config_source(str(tmp_path / "adapter")) == str(tmp_path / "base")
    assert reference_of("whatever", tmp_path / "adapter") == reference
    assert reference_of("owner/name@v2", tmp_path / "base") == replace(reference, name="owner/name", revision="v2")


def test_a_hub_id_that_is_not_here_is_left_to_transformers() -> None:
    assert config_source("owner/name") == "owner/name"
