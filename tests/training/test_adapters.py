"""What trains under each setting, and that merged adapters are the adapted model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from model import AutoCompressor
from tests.tiny import random_ids, tiny_base, tiny_recipe, tiny_tokenizer
from tests.training.runs import LORA, records_of, trainer_of
from training.bases.adapters import Adapted
from training.loop.stopping import StopRequest
from training.recipes.recipe import Method, Recipe


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def recipe_of(**changes: Any) -> Recipe:
    return replace(tiny_recipe(), **changes)


def adapted(recipe: Recipe, *, family: str = "llama", seed: int = 0) -> Adapted:
    return Adapted.of(tiny_base(family), recipe, tiny_tokenizer(), seed=seed)


def training_names(model: AutoCompressor) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained(recipe: Recipe, directory: Path, *, dtype: torch.dtype = torch.float32) -> tuple[Adapted, AutoCompressor]:
    """An adapted model after its steps, and what it was before."""
    before, after = (Adapted.of(tiny_base("llama").to(dtype), recipe, tiny_tokenizer(), seed=0) for _ in range(2))
    trainer_of(recipe, directory).train(after.model, StopRequest())
    return after, before.model


def changed(one: AutoCompressor, other: AutoCompressor) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])}


@pytest.mark.parametrize("method", ["autocompressor", "rmt", "no-context", "full-attention"])
def test_everything_trains_but_summaries_that_nobody_makes(method: Method) -> None:
    model = adapted(recipe_of(compression=replace(tiny_recipe().compression, method=method))).model
    names = {name for name, _ in model.named_parameters()}
    makes_summaries = method in ("autocompressor", "rmt")
    assert names - training_names(model) == (set() if makes_summaries else {"embed_summary.weight"})
    assert model.summary_length == (3 if makes_summaries else 0)
    assert model.accumulate_summary is (method != "rmt")
    assert model.segment_length == 20
    assert model.tokenizer is tiny_tokenizer()


def test_lora_trains_its_matrices_and_the_summary_embeddings(tmp_path: Path) -> None:
    recipe = recipe_of(trained="lora", lora=LORA)
    model = adapted(recipe).model
    names = training_names(model)
    assert "embed_summary.weight" in names
    matrices = names - {"embed_summary.weight"}
    assert len(matrices) == 2 * 2 * 2  # layers, modules, factors
    assert all(".lora_" in name and ("q_proj" in name or "v_proj" in name) for name in matrices)
    after, before = trained(recipe, tmp_path)
    assert changed(after.model, before) == names


def test_summaries_alone_train(tmp_path: Path) -> None:
    recipe = recipe_of(trained="summary")
    assert training_names(adapted(recipe).model) == {"embed_summary.weight"}
    after, before = trained(recipe, tmp_path)
    assert changed(after.model, before) == {"embed_summary.weight"}


def test_merged_adapters_are_the_adapted_model(tmp_path: Path) -> None:
    after, before = trained(recipe_of(trained="lora", lora=LORA), tmp_path)
    model, batch = after.model.eval(), random_ids(2, 48)
    with torch.no_grad():
        expected = model(batch, segment_lengths=16).logits
        assert (expected - before.eval()(batch, segment_lengths=16).logits).abs().max() > 1e-2
        close = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
        merged = after.merged()
        torch.testing.assert_close(merged(batch, segment_lengths=16).logits, expected, **close)
    assert {f"base.{name}" for name in tiny_base("llama").state_dict()} | {"embed_summary.weight"} == set(
        merged.state_dict()
    )
    merged.save_pretrained(tmp_path / "checkpoint")
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        torch.testing.assert_close(plain(batch).logits, merged.base(batch).logits, **close)
        loaded = AutoCompressor.from_pretrained(tmp_path / "checkpoint")
        torch.testing.assert_close(loaded(batch, segment_lengths=16).logits, expected, **close)


def test_nothing_to_merge() -> None:
    found = adapted(recipe_of())
    assert found.adapters is None
    assert found.merged() is found.model


def test_the_seed_sets_the_adapters() -> None:
    recipe = recipe_of(trained="lora", lora=LORA)
    torch.manual_seed(1)
    one = adapted(recipe).model.state_dict()
    torch.manual_seed(2)
    same, other = adapted(recipe).model.state_dict(), adapted(recipe, seed=1).model.state_dict()
    first = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[first], same[first])
    assert not torch.equal(one[first], other[first])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_frozen_bfloat16_base_trains_float32_adapters(precision: str, tmp_path: Path) -> None:
    recipe = recipe_of(trained="lora", lora=LORA, precision=precision)
    stage = replace(recipe.adaptation, tokens=20 * 2 * 64)
    after, _ = trained(replace(recipe, adaptation=stage), tmp_path, dtype=torch.bfloat16)
    weights = dict(after.model.named_parameters())
    assert {weight.dtype for weight in weights.values() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in weights.values() if not weight.requires_grad} == {torch.bfloat16}
    losses = [record.loss for record in records_of(tmp_path)]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.5


def test_lora_without_settings() -> None:
    with pytest.raises(ValueError, match="recipe tiny trains LoRA's adapters and does not say which"):
        adapted(recipe_of(trained="lora"))


def test_lora_on_modules_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no_such_proj"):
        adapted(recipe_of(trained="lora", lora=replace(LORA, modules=("no_such_proj",))))
