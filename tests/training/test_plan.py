"""What `--plan` says, against what a small model really does and what is known of the large ones."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM

from model import AutoCompressor
from tests.tiny import random_ids
from training.bases.adapters import Adapted
from training.objectives.cross_entropy import LanguageModelling, Segments, token_losses
from training.objectives.objective import Objective
from training.planning.devices import DEVICES, GIB
from training.planning.flops import step_flops
from training.planning.memory import peak_memory
from training.planning.plan import StagePlan, as_text, plan, stage_models
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Base, Compression, Lora, Method, Recipe, Stage

VOCABULARY = 320
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen3": LLAMA | {"head_dim": 56},
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "ffn_dim": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 128,
        "dropout": 0.0,
        "tie_word_embeddings": True,
    },
}
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
LORA = Lora(rank=4, alpha=4, dropout=0.0, modules=("q_proj", "v_proj"))


def recipe_of(family: str = "llama", method: Method = "autocompressor") -> Recipe:
    """Sequences of 288 tokens, in two substeps of two segments each."""
    return Recipe(
        name="planned",
        base=Base(family, SHAPES[family]),
        adaptation=Stage(
            tokens=10 * 4 * 288,
            sequence_tokens=288,
            batch_sequences=4,
            micro_batch_sequences=2,
            learning_rate=1e-3,
            warmup_steps=1,
        ),
        compression=Compression(
            summary_length=8,
            substeps=2,
            segments_per_substep=2,
            max_segment_tokens=100,
            segment_length=72,
            method=method,
            is_randomised=False,
        ),
        precision="no",
    )


def with_compression(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, compression=replace(recipe.compression, **changes))


VARIANTS = {
    "llama": recipe_of("llama"),
    "qwen3": recipe_of("qwen3"),
    "opt": recipe_of("opt"),
    "rmt": recipe_of(method="rmt"),
    "no-context": recipe_of(method="no-context"),
    "full-attention": recipe_of(method="full-attention"),
    "checkpointed": with_compression(recipe_of(), segment_gradient_checkpointing=True),
    "lora": replace(recipe_of(), trained="lora", lora=LORA),
}


def trained_model(recipe: Recipe) -> AutoCompressor:
    base = AutoModelForCausalLM.from_config(recipe.base.config(), dtype=torch.float32)
    return Adapted.of(base, recipe, None, seed=0).model.train()


def objective_of(recipe: Recipe) -> Objective:
    if recipe.compression.method == "full-attention":
        return LanguageModelling(-(-recipe.adaptation.sequence_tokens // 256))
    return Segments(recipe.compression, seed=0)


def adaptation_of(recipe: Recipe, device: str = "h100-80gb", **options: Any) -> StagePlan:
    return plan(recipe, DEVICES[device], **options).stages[-1]


@pytest.mark.parametrize(
    ("name", "base_parameters"),
    [
        ("opt-1.3b-30k", 1_315_758_080),
        ("opt-2.7b-6k", 2_651_596_800),
        ("qwen3-0.6b", 596_049_920),
    ],
)
def test_parameters_are_the_published_models_and_summary_embeddings(name: str, base_parameters: int) -> None:
    recipe = RECIPES[name]()
    stage = adaptation_of(recipe)
    summary = recipe.compression.summary_length * recipe.base.shape["hidden_size"]
    assert stage.parameters == stage.trained_parameters == base_parameters + summary


def test_adapters_are_counted_and_train_alone() -> None:
    stage = adaptation_of(RECIPES["llama-2-7b-6k"]())
    summary = 50 * 4096
    adapters = 32 * 4 * 16 * (4096 + 4096)  # layers, modules, rank, in + out
    assert stage.trained_parameters == adapters + summary
    assert stage.parameters == 6_738_415_616 + adapters + summary
    assert stage.memory.weights == 2 * 6_738_415_616 + 4 * (adapters + summary)
    assert stage.memory.gradients == 4 * (adapters + summary)


def test_extended_positions_are_parameters() -> None:
    recipe = recipe_of("opt")
    extended = replace(recipe, base=replace(recipe.base, max_positions=512))
    assert adaptation_of(extended).parameters == adaptation_of(recipe).parameters + 256 * 128


@pytest.mark.parametrize("name", VARIANTS)
def test_flops_are_those_of_a_real_step(name: str) -> None:
    recipe = VARIANTS[name]
    model = trained_model(recipe)
    tokens = random_ids(recipe.adaptation.batch_sequences, recipe.adaptation.sequence_tokens)
    counter = causal_counter()
    with counter:
        for substep in objective_of(recipe).substeps(model, tokens, step=0):
            substep.loss.backward()
    flops = step_flops(model, recipe, "adaptation")
    assert flops.total == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert (flops.recomputed > 0) == (name == "checkpointed")
    if not flops.recomputed:  # else what is computed again is of both kinds
        counted = counter.get_flop_counts()["Global"]
        products = counted[torch.ops.aten.mm] + counted.get(torch.ops.aten.addmm, 0)
        assert flops.linear + flops.output == pytest.approx(products, rel=0.001)
        assert flops.attention == pytest.approx(counted[ATTENTION] + counted[ATTENTION_BACKWARD], rel=0.02)


def test_pretraining_flops_are_those_of_a_real_step() -> None:
    recipe = replace(recipe_of(), pretraining=replace(recipe_of().adaptation, sequence_tokens=128))
    tokens = random_ids(4, 128)
    counter = causal_counter()
    with counter:
        for substep in LanguageModelling().substeps(trained_model(recipe_of()), tokens, step=0):
            substep.loss.backward()
    pretraining, _ = plan(recipe, DEVICES["h100-80gb"]).stages
    assert pretraining.name == "pretraining"
    assert pretraining.flops.total == pytest.approx(counter.get_total_flops(), rel=0.03)


def causal_counter() -> FlopCounterMode:
    """Counts what the CPU's attention does too, as half the square, which is what the causal mask leaves of it."""

    def forward(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return sdpa_flop_count(query, key, value) // 2

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value) // 2

    return FlopCounterMode(display=False, custom_mapping={ATTENTION: forward, ATTENTION_BACKWARD: backward})


@pytest.mark.parametrize("precision", ["bf16", "no"])
@pytest.mark.parametrize("name", VARIANTS)
def test_activations_are_what_autograd_saves(name: str, precision: Any) -> None:
    recipe = replace(VARIANTS[name], precision=precision)
    model = trained_model(recipe)
    measured = max(saved_bytes(model, recipe))
    planned = peak_memory(model, recipe, "adaptation").activations
    assert planned == pytest.approx(measured, rel=0.15)


def saved_bytes(model: AutoCompressor, recipe: Recipe) -> Iterator[int]:
    """What each substep of a micro-batch saves for its backward pass, but for weights, their copies and logits."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {frozenset(parameter.shape) for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_copy = tensor.dim() == 2 and frozenset(tensor.shape) in shapes
        if storage.data_ptr() not in weights and not is_copy and tensor.shape[-1:] != (VOCABULARY,):
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = random_ids(recipe.adaptation.micro_batch_sequences, recipe.adaptation.sequence_tokens)
    substeps = objective_of(recipe).substeps(model, tokens, step=0)
    for _ in range(objective_of(recipe).num_substeps):
        saved.clear()
        is_mixed = recipe.precision == "bf16"
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed),
        ):
            substep = next(substeps)
        yield sum(saved.values())
        substep.loss.backward()


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_logits_are_what_the_loss_takes_at_its_peak(micro_batch: int) -> None:
    recipe = replace(recipe_of(), precision="bf16")
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, micro_batch_sequences=micro_batch))
    hidden = torch.randn(micro_batch, 144, 4, requires_grad=True)
    with LiveBytes() as live:
        logits = functional.linear(hidden.bfloat16(), torch.ones(VOCABULARY, 4, dtype=torch.bfloat16))
        token_losses(logits, random_ids(micro_batch, 144)).mean().backward()
    planned = peak_memory(stage_models(recipe)["adaptation"], recipe, "adaptation").logits
    assert planned == pytest.approx(live.peak, rel=0.03)


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made under it took at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._live.values()))
        return result


def test_memory_does_not_grow_with_substeps() -> None:
    recipe = with_compression(RECIPES["opt-1.3b-30k"](), method="rmt")
    longer = with_compression(recipe, substeps=20)
    longer = replace(longer, adaptation=replace(longer.adaptation, sequence_tokens=2 * 30_720))
    assert adaptation_of(longer).memory == adaptation_of(recipe).memory


def test_accumulated_summaries_take_memory_as_positions_alone() -> None:
    recipe = RECIPES["opt-1.3b-30k"]()
    longer = with_compression(recipe, substeps=20)
    longer = replace(longer, adaptation=replace(longer.adaptation, sequence_tokens=2 * 30_720))
    before, after = adaptation_of(recipe).memory, adaptation_of(longer).memory
    assert replace(after, activations=before.activations) == before
    # the last segment has 2,048 tokens, after 50 vectors of each of 19 and of 39 segments
    assert after.activations / before.activations == pytest.approx((2048 + 39 * 50) / (2048 + 19 * 50), rel=0.01)


def test_muon_keeps_one_moment_of_matrices_and_adamw_two() -> None:
    recipe = recipe_of()
    adamw = adaptation_of(recipe)
    muon = adaptation_of(replace(recipe, adaptation=replace(recipe.adaptation, matrix_learning_rate=1e-2)))
    matrices = 3 * (4 * 128 * 128 + 3 * 128 * 352)
    assert adamw.memory.moments == 8 * adamw.trained_parameters
    assert muon.memory.moments == adamw.memory.moments - 4 * matrices


def test_sharding_divides_weights_gradients_and_moments() -> None:
    recipe = RECIPES["opt-2.7b-6k"]()
    alone = adaptation_of(recipe).memory
    sharded = adaptation_of(recipe, num_devices=4, is_sharded=True).memory
    assert (sharded.weights, sharded.gradients) == (alone.weights // 4, alone.gradients // 4)
    assert sharded.moments == alone.moments // 4
    assert sharded.activations == alone.activations
    assert sharded.copies < alone.copies


def test_replicas_exchange_gradients_in_buckets_as_large() -> None:
    recipe = RECIPES["opt-2.7b-6k"]()
    alone, replicated = adaptation_of(recipe).memory, adaptation_of(recipe, num_devices=4).memory
    assert replicated == replace(alone, gradients=2 * alone.gradients)


def test_time_is_of_all_steps_on_all_devices() -> None:
    recipe = RECIPES["opt-2.7b-6k"]()
    alone, shared = adaptation_of(recipe), adaptation_of(recipe, num_devices=4)
    assert alone.seconds == pytest.approx(recipe.adaptation.steps * alone.flops.total / (0.4 * 989.5e12))
    assert shared.seconds == pytest.approx(alone.seconds / 4)
    assert alone.tokens == recipe.adaptation.steps * 16 * 6144


def test_checkpointing_is_proposed_where_it_suffices() -> None:
    recipe = with_compression(RECIPES["opt-1.3b-30k"](), segments_per_substep=4, substeps=5)
    kept = plan(with_compression(recipe, segment_gradient_checkpointing=False), DEVICES["a100-40gb"])
    assert not kept.does_fit
    assert kept.remedies[0] == "--recompute-segments"
    assert plan(recipe, DEVICES["a100-40gb"]).does_fit


def test_a_recipe_that_does_not_fit_says_so_and_what_helps() -> None:
    recipe = RECIPES["opt-2.7b-6k"]()
    planned = plan(recipe, DEVICES["rtx-4090-24gb"])
    assert not planned.does_fit
    assert planned.remedies == ("--shard over 4 devices",)
    assert plan(recipe, DEVICES["rtx-4090-24gb"], num_devices=4, is_sharded=True).does_fit
    assert not plan(recipe, DEVICES["rtx-4090-24gb"], num_devices=2, is_sharded=True).does_fit
    assert "It does not fit rtx-4090-24gb" in as_text(planned)
    assert "what would make it fit: --shard over 4 devices." in as_text(planned)


def test_sharding_is_proposed_over_no_fewer_devices_than_there_are() -> None:
    """Of four devices with all weights each, two were proposed, where two suffice."""
    recipe, device = RECIPES["opt-2.7b-6k"](), DEVICES["l40s-48gb"]
    assert plan(recipe, device).remedies == ("--shard over 2 devices",)
    assert plan(recipe, device, num_devices=4).remedies == ("--shard over 4 devices",)


def test_smaller_micro_batches_are_proposed_where_they_suffice() -> None:
    recipe = RECIPES["opt-1.3b-30k"]()
    by_size = {
        size: plan(
            replace(recipe, adaptation=replace(recipe.adaptation, micro_batch_sequences=size)), DEVICES["a100-40gb"]
        )
        for size in (2, 4)
    }
    assert by_size[2].does_fit
    assert not by_size[4].does_fit
    assert "--micro-batch 2" in by_size[4].remedies


def test_no_remedy_is_made_up() -> None:
    recipe = RECIPES["opt-2.7b-6k"]()
    thimble = replace(DEVICES["rtx-4090-24gb"], name="thimble", memory_bytes=GIB)
    planned = plan(recipe, thimble)
    assert planned.remedies == ()
    assert as_text(planned).endswith("no change is enough.")


def test_text_has_every_stage_and_units() -> None:
    planned = plan(RECIPES["small"](), DEVICES["h200-141gb"])
    text = as_text(planned)
    assert text.splitlines()[0] == "small on h200-141gb"
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[1:3]] == ["pretraining", "adaptation"]
    assert "18.290 M" in blocks[1]
    assert "4,577 steps of 128 sequences of 1,024" in blocks[1]
    assert "at 40% of 989.50 TFLOP/s" in blocks[1]
    for unit in ("PFLOP", "minutes", "GiB", "tokens"):
        assert unit in blocks[1]
    assert blocks[-1].startswith("It fits h200-141gb: pretraining needs")
    assert max(map(len, text.splitlines())) <= 120


def test_large_figures_have_large_units() -> None:
    text = as_text(plan(RECIPES["opt-1.3b-30k"](), DEVICES["h100-80gb"], num_devices=2, is_sharded=True))
    assert text.splitlines()[0] == "opt-1.3b-30k on h100-80gb, 2 devices, sharded"
    assert "1.316 B" in text
    assert "EFLOP" in text


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 4 sequences does not divide among 3 processes"):
        plan(recipe_of(), DEVICES["h100-80gb"], num_devices=3)


def test_segments_that_do_not_fit_the_positions_are_refused() -> None:
    recipe = with_compression(recipe_of(), substeps=1, segments_per_substep=2, max_segment_tokens=250)
    recipe = with_compression(recipe, is_randomised=True)
    with pytest.raises(ValueError, match="segments of up to 250 tokens, with 8 soft prompt vectors before"):
        plan(recipe, DEVICES["h100-80gb"])


def test_sequences_that_cannot_be_cut_are_refused() -> None:
    recipe = with_compression(recipe_of(), is_randomised=True, max_segment_tokens=60)
    with pytest.raises(ValueError, match="144 tokens cannot be cut into 2 segments"):
        plan(recipe, DEVICES["h100-80gb"])
