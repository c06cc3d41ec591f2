"""The peak memory of training, by what takes it."""

from dataclasses import dataclass, fields

import torch
from torch import nn

from model import AutoCompressor
from model.adapter import AdaptedLinear
from training.loop.optimisation import build_optimisers
from training.planning.flops import matrices, output_matrix
from training.planning.passes import Pass, passes_of, stage_of
from training.planning.shapes import DecoderShape, first_layer
from training.recipes.recipe import Precision, Recipe, Stage


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the start of a substep's backward pass, which is the peak.

    Left out: what the optimiser needs for its step, which comes when activations are gone.

    Attributes:
        weights: in their own dtype.
        copies: bfloat16 copies of matrices. Autocast keeps one of each float32 matrix that trains until its backward
            pass. Sharded: the output layer and two layers at a time, gathered.
        gradients: of what trains; twice where they are exchanged unsharded, in buckets.
        moments: float32; AdamW has two, Muon one.
        activations: what autograd saves of one substep of one micro-batch.
        logits: of that substep, in the model's precision, and in float32 their log-probabilities and two gradients.
    """

    weights: int
    copies: int
    gradients: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def peak_memory(
    model: AutoCompressor, recipe: Recipe, name: str, *, num_devices: int = 1, is_sharded: bool = False
) -> Memory:
    """Of one device, in the substep that needs most; the longest segment that can be drawn comes last.

    Raises:
        ValueError: the batch does not divide among devices and micro-batches, and what `plan` says.
    """
    stage = stage_of(recipe, name)
    _, micro_batch = stage.share_of(num_devices)
    substeps = passes_of(recipe, name, has_longest_last=True)
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    logit_bytes = 3 * 4 + _width(recipe.precision)
    if recipe.compression.distillation is not None:
        logit_bytes += 2 * 4 + _width(recipe.precision)  # the teacher's, their log-probabilities, and probabilities
    num_shards = num_devices if is_sharded else 1
    return Memory(
        weights=sum(parameter.nbytes for parameter in model.parameters()) // num_shards,
        copies=_copied_bytes(model, recipe.precision, is_sharded=num_shards > 1),
        gradients=trained * (2 if num_devices > num_shards else 1) // num_shards,
        moments=_moment_bytes(model, stage) // num_shards,
        activations=micro_batch * max(activation_bytes(model, recipe, substep) for substep in substeps),
        logits=micro_batch
        * max(sum(one.tokens for one in substep if not one.is_teaching) for substep in substeps)
        * output_matrix(model).shape[0]
        * logit_bytes,
    )


def _width(precision: Precision) -> int:
    return 2 if precision == "bf16" else 4


def _moment_bytes(model: AutoCompressor, stage: Stage) -> int:
    return sum(
        (1 if isinstance(optimiser, torch.optim.Muon) else 2) * 4 * parameter.numel()
        for optimiser in build_optimisers(model, stage)
        for group in optimiser.param_groups
        for parameter in group["params"]
    )


def _copied_bytes(model: AutoCompressor, precision: Precision, *, is_sharded: bool) -> int:
    layers: int = model.base.config.num_hidden_layers
    gathered = min(2, layers) if is_sharded else layers
    weights = matrices(first_layer(model)) * gathered + [output_matrix(model)]
    is_copied = [is_sharded or (precision == "bf16" and weight.dtype == torch.float32) for weight in weights]
    return sum(_width(precision) * weight.numel() for weight, copied in zip(weights, is_copied, strict=True) if copied)


def activation_bytes(model: AutoCompressor, recipe: Recipe, passes: list[Pass]) -> int:
    """What autograd saves of one sequence's passes, logits apart; of a checkpointed one, its soft prompt and tokens."""
    hidden = DecoderShape.of(model).hidden
    num_layers: int = model.base.config.num_hidden_layers
    layers = num_layers * _layer_bytes(model, recipe)
    outside = (4 + 4 + _width(recipe.precision)) * hidden  # the final norm, and what the output layer reads
    kept = sum(one.positions for one in passes if not (one.is_checkpointed or one.is_teaching))
    inputs = sum(4 * hidden * one.soft_prompt + 2 * 8 * one.tokens for one in passes if one.is_checkpointed)
    return kept * (layers + outside) + inputs


def _layer_bytes(model: AutoCompressor, recipe: Recipe) -> int:
    """What one decoder layer saves of one position; norms compute in float32, whatever the residual stream is."""
    shape, width, layer = DecoderShape.of(model), _width(recipe.precision), first_layer(model)
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    own = [module for name, module in linears.items() if "lora_" not in name]
    does_train = own[0].weight.requires_grad  # a frozen matrix does not need its input
    num_readers = len(own) - 2 if recipe.precision == "bf16" else 2  # autocast casts the normed input for each matrix
    adapters = sum(
        width * module.in_features + ("lora_A" in name and _has_dropout(recipe)) * module.in_features
        for name, module in linears.items()
        if "lora_" in name
    )
    adapters += sum(
        width * (module.linear.in_features + module.lora_a.shape[0])
        for module in layer.modules()
        if isinstance(module, AdaptedLinear)
    )
    masks = 2 * shape.hidden if getattr(model.base.config, "dropout", 0.0) else 0  # a byte each
    return (
        sum(_norm_bytes(name, module, shape) for name, module in layer.named_modules())
        + does_train * num_readers * width * shape.hidden
        + width * 2 * (shape.query_width + shape.kv_width)  # queries, keys, values, and what attention gives
        + 4 * shape.heads  # the log-sum-exp of each row of scores
        + _mlp_tensors(model, does_train) * width * shape.intermediate
        + adapters
        + masks
    )


def _norm_bytes(name: str, module: nn.Module, shape: DecoderShape) -> int:
    """LayerNorm saves its float32 input; an RMSNorm, being written out, also what its weight multiplies."""
    kind = type(module).__name__
    if not kind.endswith("Norm"):
        return 0
    has_product = kind.endswith("RMSNorm") and next(module.parameters()).requires_grad
    if name.endswith(("q_norm", "k_norm")):
        return (4 + 2 * has_product) * (shape.query_width if name.endswith("q_norm") else shape.kv_width)
    return (4 + 4 * has_product) * shape.hidden


def _mlp_tensors(model: AutoCompressor, does_train: bool) -> int:
    """How many tensors of the intermediate size are saved: a matrix that trains keeps its input."""
    config = model.base.config
    if any(name.endswith("gate_proj") for name, _ in first_layer(model).named_modules()):
        return 3 + does_train  # before and after the activation, its partner, and their product
    activation = getattr(config, "activation_function", None) or config.hidden_act
    return 1 if activation == "relu" else 1 + does_train  # ReLU's backward pass reads its output


def _has_dropout(recipe: Recipe) -> bool:
    return recipe.lora is not None and recipe.lora.dropout > 0
