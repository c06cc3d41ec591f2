"""The floating-point operations of a training step."""

from dataclasses import dataclass

from torch import Tensor, nn

from model import AutoCompressor
from model.base import output_layer
from training.planning.passes import Pass, passes_of, stage_of
from training.planning.shapes import DecoderShape
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Flops:
    """FLOPs of one step over all devices; a multiplication and an addition are 2.

    Attributes:
        linear: the decoder's matrices at every position, soft prompts and summary tokens too: 2 a weight forward, 4
            backward, or 2 backward for a frozen weight.
        output: the output layer, at the tokens.
        attention: both products, over pairs that the causal mask lets through (not the whole square, which
            `FlopCounterMode` counts): 2 products forward and 5 backward, as scores are computed again
            (FlashAttention-2, arXiv 2307.08691, section 4.1).
        recomputed: one more forward pass of the segments that are checkpointed.
    """

    linear: int
    output: int
    attention: int
    recomputed: int

    @property
    def total(self) -> int:
        return self.linear + self.output + self.attention + self.recomputed


def step_flops(model: AutoCompressor, recipe: Recipe, name: str) -> Flops:
    """Of one step of the stage, with segments of equal length."""
    passes = [one for substep in passes_of(recipe, name, has_longest_last=False) for one in substep]
    weights = matrices(model.base.base_model)
    forward = 2 * sum(weight.numel() for weight in weights)
    attention = 4 * DecoderShape.of(model).query_width * model.base.config.num_hidden_layers  # of one pair of positions
    output = output_matrix(model)
    sequences = stage_of(recipe, name).batch_sequences

    def pairs(one: Pass) -> int:
        return one.positions * (one.positions + 1) // 2

    def backward(one: Pass, flops: int) -> int:
        return 0 if one.is_teaching else flops

    through_layers, through_output = sum(map(_backward_flops, weights)), _backward_flops(output)
    return Flops(
        linear=sequences * sum(one.positions * (forward + backward(one, through_layers)) for one in passes),
        output=sequences * sum(one.tokens * (2 * output.numel() + backward(one, through_output)) for one in passes),
        attention=sequences * sum(pairs(one) * (attention + backward(one, attention * 5 // 2)) for one in passes),
        recomputed=sequences
        * sum(one.positions * forward + pairs(one) * attention for one in passes if one.is_checkpointed),
    )


def matrices(module: nn.Module) -> list[Tensor]:
    return [part.weight for part in module.modules() if isinstance(part, nn.Linear)]


def output_matrix(model: AutoCompressor) -> Tensor:
    weight = output_layer(model.base).weight
    assert isinstance(weight, Tensor)
    return weight  # (V, D)


def _backward_flops(weight: Tensor) -> int:
    return (4 if weight.requires_grad else 2) * weight.numel()
