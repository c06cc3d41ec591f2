"""Recipes fit themselves, and those whose weights are not here are gone through with a small base of their kind."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from model import AutoCompressor
from model.positions import Positions
from tests.tiny import cpu_accelerator, random_base, random_ids, tiny_tokenizer
from tests.training.runs import records_of, run_of
from training.loop.stopping import StopRequest
from training.objectives.segment_lengths import draw_lengths
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Base, Recipe

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
SMALL_OF = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "llama": {"intermediate_size": 64, "num_key_value_heads": 4},
    "qwen3": {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16},
}
WITHOUT_WEIGHTS = ("opt-1.3b-30k", "opt-2.7b-6k", "llama-2-7b-6k", "qwen3-0.6b")
SEGMENT_TOKENS = 12


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_themselves(name: str) -> None:
    """Every substep can be cut as it says, the last segment finds room after all summaries, and batches divide."""
    recipe = RECIPES[name]()
    assert recipe.name == name
    settings, stage = recipe.compression, recipe.adaptation
    slice_tokens, rest = divmod(stage.sequence_tokens, settings.substeps)
    assert rest == 0
    options = {"max_length": settings.max_segment_tokens, "generator": random.Random(0)}
    assert len(draw_lengths(slice_tokens, settings.segments_per_substep, **options)) == settings.segments_per_substep
    num_before = (settings.num_segments - 1) if settings.method == "autocompressor" else 1
    soft_prompt = settings.summary_length * num_before
    positions = Positions.of(recipe.base.config())
    capacity = positions.capacity(soft_prompt, settings.summary_length)
    assert max(settings.max_segment_tokens, settings.segment_length) <= capacity
    for each in (recipe.pretraining, stage):
        assert each is None or each.batch_sequences % each.micro_batch_sequences == 0
    assert (recipe.pretraining is None) is (recipe.base.name is not None)
    if recipe.pretraining is not None:
        assert recipe.pretraining.sequence_tokens <= positions.max_positions
    assert (recipe.lora is None) is (recipe.trained != "lora")


def shrunken(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe with a base of the same architecture, stored in a directory, and ten steps of short segments."""
    shape = SMALL | SMALL_OF[recipe.base.architecture]
    shape["tie_word_embeddings"] = recipe.base.shape["tie_word_embeddings"]
    base = Base(recipe.base.architecture, shape, name=str(directory), dtype=recipe.base.dtype)
    random_base(base.config()).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    sequence_tokens = recipe.compression.num_segments * SEGMENT_TOKENS
    return replace(
        recipe,
        base=base,
        adaptation=replace(
            recipe.adaptation,
            tokens=10 * 2 * sequence_tokens,
            sequence_tokens=sequence_tokens,
            batch_sequences=2,
            learning_rate=1e-2,  # what moves a random model in ten steps
            warmup_steps=2,
        ),
        compression=replace(
            recipe.compression, summary_length=2, max_segment_tokens=SEGMENT_TOKENS + 4, segment_length=SEGMENT_TOKENS
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_recipe_runs_on_a_small_base_of_its_kind(name: str, tmp_path: Path) -> None:
    recipe = shrunken(RECIPES[name](), tmp_path / "base")
    run = run_of(tmp_path, cpu_accelerator(recipe.precision), recipe)
    run.train(StopRequest())
    records = records_of(tmp_path / "run" / "adaptation")
    assert len(records) == 10
    assert {len(record.segment_losses) for record in records} == {recipe.compression.num_segments}
    assert sum(record.loss for record in records[-3:]) < sum(record.loss for record in records[:3])
    model = AutoCompressor.from_pretrained(run.checkpoint)
    settings = recipe.compression
    assert (model.summary_length, model.accumulate_summary, model.segment_length) == (2, True, SEGMENT_TOKENS)
    vectors = model.compress(random_ids(1, 30), segment_lengths=SEGMENT_TOKENS)
    assert vectors.shape == (1, 3 * settings.summary_length, 32)
    assert vectors.isfinite().all()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).state_dict()
    moved = {name for name, value in model.base.state_dict().items() if not torch.equal(value, base[name])}
    if recipe.lora is None:
        assert len(moved) > len(base) // 2
    else:
        assert {name.split(".")[-2] for name in moved} == set(recipe.lora.modules)
    assert len({tuple(row) for row in model.embed_summary.weight.tolist()}) == 2
