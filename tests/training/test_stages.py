"""Both stages learn, gradients cross as many compression steps as the recipe says, and a run can be repeated."""

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from model import AutoCompressor
from tests.tiny import random_ids, tiny_compressor, tiny_recipe, tiny_tokenizer
from training.data import TokenisedDocuments
from training.optimisation import batches, build_optimisers, optimise, schedule
from training.recipes import RECIPES, Compression, Recipe
from training.segmenting import draw_lengths
from training.stages import adapt, backward_by_substeps, pretrain


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.stages.autocast", nullcontext)


@pytest.fixture(scope="module")
def repetitive() -> TokenisedDocuments:
    """Four documents that say the same eleven tokens over and over."""
    tokens = np.tile(np.arange(20, 31, dtype=np.uint16), 100)
    starts = np.arange(5) * (len(tokens) // 4)
    return TokenisedDocuments(tokens, starts)


# --- gradients


def compression(**changes: int) -> Compression:
    return replace(tiny_recipe().compression, **changes)


def gradients_of(model: AutoCompressor) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def by_hand(model: AutoCompressor, batch: Tensor, *, is_detached: bool) -> tuple[dict[str, Tensor], list[float]]:
    """Two substeps of two segments, the lengths drawn from seed 0: one loss, one backward pass."""
    model.zero_grad()
    generator, soft_prompt, losses = random.Random(0), model.empty_soft_prompt(batch.shape[0]), []
    for tokens in batch.split(32, dim=1):
        lengths = draw_lengths(32, 2, max_length=24, generator=generator)
        for index, segment in enumerate(tokens.split(lengths, dim=1)):
            if index == 0:
                logits = model(segment, soft_prompt=soft_prompt).logits
            else:
                logits = torch.cat([logits, model(segment, soft_prompt=soft_prompt).logits], dim=1)
            soft_prompt = torch.cat([soft_prompt, model.compress(segment, soft_prompt=soft_prompt)], dim=1)
        losses.append(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
        if is_detached:
            soft_prompt = soft_prompt.detach()
    torch.stack(losses).sum().backward()
    return gradients_of(model), torch.stack(losses).tolist()


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm()) for name in one)


def test_gradients_stop_between_substeps(in_float32: None) -> None:
    model, batch = tiny_compressor("llama", summary_length=3), random_ids(2, 64)
    loss = backward_by_substeps(model, batch, compression(), random.Random(0))
    actual = gradients_of(model)
    detached, losses = by_hand(model, batch, is_detached=True)
    through, _ = by_hand(model, batch, is_detached=False)
    assert loss == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert largest_difference(detached, actual) < 1e-4
    assert largest_difference(through, actual) > 1e-2


def test_the_substep_after_is_conditioned_on_the_one_before(in_float32: None) -> None:
    """Detached is not forgotten: other tokens in the first substep change the loss of the second."""
    model, batch = tiny_compressor("llama", summary_length=3), random_ids(1, 64)
    seen = []
    forward = model.forward

    def watch(*args: Tensor, **options: object) -> object:
        output = forward(*args, **options)
        seen.append(float(output.loss.detach()))
        return output

    model.forward = watch
    backward_by_substeps(model, batch, compression(), random.Random(0))
    batch[:, :32] = random_ids(1, 32, seed=1)
    backward_by_substeps(model, batch, compression(), random.Random(0))
    assert len(seen) == 4
    assert abs(seen[1] - seen[3]) > 1e-3


@pytest.mark.parametrize("segments_per_substep", [1, 2, 3])
def test_gradients_cross_the_compression_steps_of_one_substep(in_float32: None, segments_per_substep: int) -> None:
    """The summary vectors of a substep's last segment wait for the next one, which gets them detached."""
    model, made = tiny_compressor("llama", summary_length=3), []
    run_segment = model.run_segment

    def watch(*args: Tensor, is_compressed: bool) -> tuple[Tensor, Tensor]:
        hidden, vectors = run_segment(*args, is_compressed=is_compressed)
        vectors.retain_grad()
        made.append(vectors)
        return hidden, vectors

    model.run_segment = watch
    settings = compression(segments_per_substep=segments_per_substep, max_segment_tokens=32)
    backward_by_substeps(model, random_ids(1, 64), settings, random.Random(0))
    learns = [vectors.grad is not None and bool(vectors.grad.norm() > 0) for vectors in made]
    one_substep = [True] * (segments_per_substep - 1) + [False]
    assert learns == one_substep * 2
    assert [vectors.shape[1] for vectors in made] == [3] * (len(made) - 1) + [0]  # nobody needs the last summary


def test_bfloat16_gradients_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_compressor("llama", summary_length=3), random_ids(2, 64)
    rough_loss = backward_by_substeps(model, batch, compression(), random.Random(0))
    rough = gradients_of(model)
    assert {gradient.dtype for gradient in rough.values()} == {torch.float32}
    model.zero_grad()
    monkeypatch.setattr("training.stages.autocast", nullcontext)
    loss = backward_by_substeps(model, batch, compression(), random.Random(0))
    assert rough_loss == pytest.approx(loss, rel=1e-2)
    assert 1e-4 < largest_difference(gradients_of(model), rough) < 0.2


def test_substeps_that_do_not_divide_the_sequence() -> None:
    with pytest.raises(ValueError, match="64 tokens do not divide into 3 substeps"):
        backward_by_substeps(tiny_compressor("llama"), random_ids(1, 64), compression(substeps=3), random.Random(0))


# --- learning


def pretrained(recipe: Recipe, documents: TokenisedDocuments, *, seed: int = 0) -> LlamaForCausalLM:
    return pretrain(recipe, documents, tiny_tokenizer(), seed=seed)


def adapted(recipe: Recipe, base: LlamaForCausalLM, documents: TokenisedDocuments, *, seed: int = 0) -> AutoCompressor:
    return adapt(recipe, copy.deepcopy(base), documents, tiny_tokenizer(), seed=seed)


@pytest.fixture(scope="module")
def base(repetitive: TokenisedDocuments) -> LlamaForCausalLM:
    """A pretrained base; copy it before changing it."""
    with torch.random.fork_rng():
        return pretrained(tiny_recipe(), repetitive)


@torch.no_grad()
def loss_of(model: nn.Module, documents: TokenisedDocuments, **options: object) -> float:
    batch = torch.from_numpy(documents.tokens[:64].astype(np.int64))[None]
    return float(model(batch, labels=batch, **options).loss)


@pytest.mark.parametrize("matrix_learning_rate", [None, 2e-2], ids=["adamw", "muon"])
def test_pretraining_learns(repetitive: TokenisedDocuments, matrix_learning_rate: float | None) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, pretraining=replace(recipe.pretraining, matrix_learning_rate=matrix_learning_rate))
    untrained = LlamaForCausalLM(recipe.base_config(end_of_text=0))
    assert loss_of(untrained, repetitive) > 5  # ln 320 is 5.8
    trained = pretrained(recipe, repetitive)
    assert loss_of(trained, repetitive) < 2
    assert not trained.training
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}


def test_adaptation_learns(repetitive: TokenisedDocuments, base: LlamaForCausalLM) -> None:
    recipe = tiny_recipe()
    start = AutoCompressor.from_base(copy.deepcopy(base), 3)
    before = loss_of(start, repetitive, segment_lengths=16)
    model = adapted(recipe, base, repetitive)
    assert loss_of(model, repetitive, segment_lengths=16) < before - 0.1
    assert (model.summary_length, model.accumulate_summary, model.segment_length) == (3, True, 20)
    assert model.tokenizer is tiny_tokenizer()
    assert not model.training
    moved = (model.embed_summary.weight - start.embed_summary.weight).norm(dim=1)
    assert moved.min() > 1e-3
    assert not torch.equal(model.embed_summary.weight[0], model.embed_summary.weight[1])


def test_the_base_is_of_the_recipe_s_shape(base: LlamaForCausalLM) -> None:
    config = base.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (320, 32, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (2, 1, 128)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 0)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_themselves(name: str) -> None:
    """Every substep can be cut as it says, and the last segment finds room after all summaries."""
    recipe = RECIPES[name]()
    settings = recipe.compression
    slice_tokens, rest = divmod(recipe.adaptation.sequence_tokens, settings.substeps)
    assert rest == 0
    options = {"max_length": settings.max_segment_tokens, "generator": random.Random(0)}
    assert len(draw_lengths(slice_tokens, settings.segments_per_substep, **options)) == settings.segments_per_substep
    num_segments = settings.substeps * settings.segments_per_substep
    summaries = settings.summary_length * (num_segments if settings.accumulate_summary else 2)
    assert settings.max_segment_tokens + summaries <= recipe.max_positions
    assert recipe.pretraining.sequence_tokens <= recipe.max_positions


# --- repetition


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, value), (_, expected) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, expected), name


def test_the_seed_decides_pretraining(repetitive: TokenisedDocuments, base: LlamaForCausalLM) -> None:
    torch.manual_seed(99)
    assert_same_weights(pretrained(tiny_recipe(), repetitive), base)
    other = pretrained(tiny_recipe(), repetitive, seed=1)
    assert not torch.equal(other.model.norm.weight, base.model.norm.weight)


def test_the_seed_decides_adaptation(repetitive: TokenisedDocuments, base: LlamaForCausalLM) -> None:
    one = adapted(tiny_recipe(), base, repetitive)
    torch.manual_seed(99)
    assert_same_weights(one, adapted(tiny_recipe(), base, repetitive))
    other = adapted(tiny_recipe(), base, repetitive, seed=1)
    assert not torch.equal(other.embed_summary.weight, one.embed_summary.weight)


def test_the_seed_decides_the_order_of_adaptation(repetitive: TokenisedDocuments, base: LlamaForCausalLM) -> None:
    """One segment a substep: nothing but the order of the batches is left to chance."""
    recipe = tiny_recipe()
    recipe = replace(
        recipe,
        adaptation=replace(recipe.adaptation, tokens=2 * 2 * 64),
        compression=compression(segments_per_substep=1),
    )
    one, other = (adapted(recipe, base, repetitive, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.base.lm_head.weight, other.base.lm_head.weight)


# --- optimisation


def test_a_loss_that_is_not_finite_stops_the_run(repetitive: TokenisedDocuments) -> None:
    model, steps = nn.Linear(2, 2), []

    def backward(batch: Tensor) -> float:
        model(torch.ones(1, 2)).sum().backward()
        steps.append(float("nan") if len(steps) == 3 else 1.0)
        return steps[-1]

    with pytest.raises(FloatingPointError, match="adaptation: the loss of step 3 is nan"):
        optimise(model, tiny_recipe().pretraining, repetitive, backward, seed=0, description="adaptation")
    assert len(steps) == 4


def test_weights_that_blow_up_stop_pretraining(repetitive: TokenisedDocuments) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, pretraining=replace(recipe.pretraining, learning_rate=float("inf")))
    with pytest.raises(FloatingPointError, match="pretraining: the loss of step 1 is nan"):
        pretrained(recipe, repetitive)


def test_a_stage_takes_its_number_of_steps(repetitive: TokenisedDocuments, caplog: pytest.LogCaptureFixture) -> None:
    model, shapes = nn.Linear(2, 2), []

    def backward(batch: Tensor) -> float:
        shapes.append((tuple(batch.shape), batch.dtype))
        model(torch.ones(1, 2)).sum().backward()
        return 2.5

    with caplog.at_level(logging.INFO, logger="training.optimisation"):
        optimise(model, tiny_recipe().pretraining, repetitive, backward, seed=0, description="some stage")
    assert shapes == [((4, 32), torch.int64)] * 20
    assert caplog.messages == ["some stage: 20 steps, loss 2.500"]


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    stage = replace(tiny_recipe().pretraining, warmup_steps=5)
    shares = [schedule(step, stage) for step in range(stage.steps + 1)]
    assert shares[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert shares[-1] == pytest.approx(0.1)


def test_muon_takes_hidden_matrices_only() -> None:
    model, stage = tiny_compressor("llama"), tiny_recipe().pretraining
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adamw, muon = (
        {names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]}
        for optimiser in build_optimisers(model, stage)
    )
    assert adamw | muon == set(names.values())
    assert not adamw & muon
    assert {"embed_summary.weight", "base.model.embed_tokens.weight", "base.lm_head.weight"} <= adamw
    assert all("proj" in name for name in muon)
    assert len(muon) == 2 * 7
    (only,) = build_optimisers(model, replace(stage, matrix_learning_rate=None))
    assert len(only.param_groups[0]["params"]) == len(names)


def test_an_epoch_reads_every_run_once() -> None:
    documents = TokenisedDocuments(np.arange(400, dtype=np.uint16), np.array([0, 150, 400]))
    stage = replace(tiny_recipe().pretraining, sequence_tokens=25, batch_sequences=4)
    first, second = ([] for _ in range(2))
    stream = batches(documents, stage, seed=0)
    for epoch in (first, second):
        for batch in islice(stream, 4):
            assert (batch.diff(dim=1) == 1).all()
            epoch.extend(batch[:, 0].tolist())
    assert sorted(first) == sorted(second) == list(range(0, 400, 25))
    assert first != second
    again = [row for batch in islice(batches(documents, stage, seed=0), 4) for row in batch[:, 0].tolist()]
    assert again == first


def test_too_few_runs_for_a_batch() -> None:
    documents = TokenisedDocuments(np.arange(100, dtype=np.uint16), np.array([0, 100]))
    with pytest.raises(ValueError, match="hold 3 runs of 32 tokens; a batch needs 4"):
        next(batches(documents, tiny_recipe().pretraining, seed=0))
