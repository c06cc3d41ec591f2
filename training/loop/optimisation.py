"""Optimisers and the schedule of their learning rates."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.compressors import Bridge
from training.recipes.recipe import Precision, Stage

MUON_WEIGHT_DECAY = 0.01


class Float32Muon(torch.optim.Muon):
    """torch.optim.Muon that orthogonalises in float32.

    torch's own casts to bfloat16, whatever it trains. On a CPU without instructions for that, the products took four
    fifths of a training step (recipe `small-cpu`). The state is torch's, and the results are but for rounding.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with the gradients that are there. `closure`, which would compute them again, is not for this."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"])  # Nesterov's
                update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1])))


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A matrix, (rows, columns), with all its singular values brought near 1, by Newton-Schulz iteration.

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    linear, cubic, quintic = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def build_optimisers(model: nn.Module, stage: Stage, precision: Precision = "bf16") -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices where the stage asks for it, AdamW for all else that trains.

    Muon (torch.optim.Muon) orthogonalises a matrix's momentum, in the given precision; embeddings and norms are not its
    business. The bridge of anchored vectors has rates in proportion to its scale. Every group keeps the peak of its
    learning rate under `initial_lr`, as torch's schedulers do.

    Raises:
        ValueError: nothing trains.
    """
    matrices: list[nn.Parameter] = []
    summaries: list[nn.Parameter] = []
    bridge: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        if not parameter.requires_grad:
            continue
        if is_matrix and stage.matrix_learning_rate is not None:
            matrices.append(parameter)
        elif name.startswith("bridge."):
            bridge.append(parameter)
        else:
            (summaries if "embed_summary" in name else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    of_summaries = stage.summary_learning_rate or stage.learning_rate
    # what a bridge adds to embeddings is of their size
    of_bridge = of_summaries * sum(part.scale for part in model.modules() if isinstance(part, Bridge))
    if groups := _groups((others, stage.learning_rate), (summaries, of_summaries), (bridge, of_bridge)):
        optimisers.append(torch.optim.AdamW(groups, betas=stage.adam_betas, weight_decay=stage.weight_decay))
    if groups := _groups((matrices, stage.matrix_learning_rate)):
        muon = Float32Muon if precision == "no" else torch.optim.Muon
        optimisers.append(muon(groups, weight_decay=MUON_WEIGHT_DECAY, momentum=0.95))
    if not optimisers:
        raise ValueError("no parameter trains")
    return optimisers


def _groups(*parameters: tuple[list[nn.Parameter], float | None]) -> list[dict[str, Any]]:
    return [{"params": group, "lr": peak, "initial_lr": peak} for group, peak in parameters if group]


def set_learning_rates(optimisers: Sequence[torch.optim.Optimizer], step: int, stage: Stage) -> float:
    """Set what each optimiser's groups take at a step; the share of their peaks."""
    share = schedule(step, stage)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * share
    return share


def schedule(step: int, stage: Stage) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a fall to the stage's `final_share`."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if stage.decay == "cosine" else 1 - progress
    return stage.final_share + (1 - stage.final_share) * fall
