"""Optimisers and the schedule of their learning rates."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.recipe import Stage

MUON_WEIGHT_DECAY = 0.01


def build_optimisers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices where the stage asks for it, AdamW for all else that trains.

    Muon (torch.optim.Muon) orthogonalises a matrix's momentum; embeddings and norms are not its business. Every group
    keeps the peak of its learning rate under `initial_lr`, as torch's schedulers do.

    Raises:
        ValueError: nothing trains.
    """
    matrices: list[nn.Parameter] = []
    summaries: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        if not parameter.requires_grad:
            continue
        if is_matrix and stage.matrix_learning_rate is not None:
            matrices.append(parameter)
        else:
            (summaries if "embed_summary" in name else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    of_summaries = stage.summary_learning_rate or stage.learning_rate
    if groups := _groups((others, stage.learning_rate), (summaries, of_summaries)):
        optimisers.append(torch.optim.AdamW(groups, betas=stage.adam_betas, weight_decay=stage.weight_decay))
    if groups := _groups((matrices, stage.matrix_learning_rate)):
        optimisers.append(torch.optim.Muon(groups, weight_decay=MUON_WEIGHT_DECAY, momentum=0.95))
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
