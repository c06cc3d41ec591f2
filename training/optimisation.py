"""Optimisers and the schedule of their learning rates."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from training.recipe import Stage

MUON_WEIGHT_DECAY = 0.01


def build_optimisers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices where the stage asks for it, AdamW for all else that trains.

    Muon (torch.optim.Muon) orthogonalises a matrix's momentum; embeddings and norms are not its business.

    Raises:
        ValueError: nothing trains.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
            (matrices if is_matrix and stage.matrix_learning_rate is not None else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if others:
        optimisers.append(
            torch.optim.AdamW(others, lr=stage.learning_rate, betas=stage.adam_betas, weight_decay=stage.weight_decay)
        )
    if matrices and stage.matrix_learning_rate is not None:
        optimisers.append(
            torch.optim.Muon(matrices, lr=stage.matrix_learning_rate, weight_decay=MUON_WEIGHT_DECAY, momentum=0.95)
        )
    if not optimisers:
        raise ValueError("no parameter trains")
    return optimisers


def set_learning_rates(optimisers: Sequence[torch.optim.Optimizer], step: int, stage: Stage) -> float:
    """Set what each optimiser takes at a step; the share of the peak."""
    share = schedule(step, stage)
    for optimiser in optimisers:
        is_muon = isinstance(optimiser, torch.optim.Muon)
        peak = stage.matrix_learning_rate if is_muon else stage.learning_rate
        assert peak is not None
        for group in optimiser.param_groups:
            group["lr"] = peak * share
    return share


def schedule(step: int, stage: Stage) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a fall to the stage's `final_share`."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if stage.decay == "cosine" else 1 - progress
    return stage.final_share + (1 - stage.final_share) * fall
