"""Optimisers, schedule and batches: what pretraining and adaptation share."""

import logging
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.data import TokenisedDocuments
from training.recipes import Stage

logger = logging.getLogger(__name__)

FINAL_SHARE = 0.1  # of the peak learning rate, at the end of the cosine
MAX_GRADIENT_NORM = 1.0


def optimise(
    model: nn.Module,
    stage: Stage,
    documents: TokenisedDocuments,
    backward: Callable[[Tensor], float],
    *,
    seed: int,
    description: str,
) -> None:
    """Run a stage: `backward` takes a batch (B, L), leaves gradients and returns its loss.

    Raises:
        FloatingPointError: a loss that is not finite, with the step named.
    """
    optimisers = build_optimisers(model, stage)
    peaks = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    model.train()
    progress = tqdm(range(stage.steps), desc=description, unit=" steps", mininterval=5.0)
    smoothed, started = None, time.monotonic()
    for step, batch in zip(progress, batches(documents, stage, seed=seed), strict=False):
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, stage)
        loss = backward(batch)
        if not math.isfinite(loss):
            raise FloatingPointError(f"{description}: the loss of step {step} is {loss}")
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        smoothed = loss if smoothed is None else 0.95 * smoothed + 0.05 * loss
        tokens_per_second = (step + 1) * batch.numel() / (time.monotonic() - started)
        progress.set_postfix_str(f"loss {smoothed:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False)
    model.eval()
    logger.info("%s: %d steps, loss %.3f", description, stage.steps, smoothed or math.nan)


def build_optimisers(model: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices where the stage asks for it, AdamW for all else.

    Muon (torch.optim.Muon) orthogonalises a matrix's momentum; embeddings and norms are not its business.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        (matrices if is_matrix and stage.matrix_learning_rate is not None else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    ]
    if stage.matrix_learning_rate is not None:
        optimisers.append(torch.optim.Muon(matrices, lr=stage.matrix_learning_rate, weight_decay=0.01, momentum=0.95))
    return optimisers


def schedule(step: int, stage: Stage) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a cosine to `FINAL_SHARE`."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def batches(documents: TokenisedDocuments, stage: Stage, *, seed: int) -> Iterator[Tensor]:
    """Endless batches (B, L) of runs within documents, int64, in an order set by the seed, anew each epoch.

    Raises:
        ValueError: fewer runs than a batch has.
    """
    starts = documents.windows(stage.sequence_tokens)
    if len(starts) < stage.batch_sequences:
        raise ValueError(
            f"the documents hold {len(starts)} runs of {stage.sequence_tokens} tokens; "
            f"a batch needs {stage.batch_sequences}"
        )
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(starts)
        for first in range(0, len(order) - stage.batch_sequences + 1, stage.batch_sequences):
            chosen = order[first : first + stage.batch_sequences]
            rows = [documents.tokens[start : start + stage.sequence_tokens].astype(np.int64) for start in chosen]
            yield torch.from_numpy(np.stack(rows))
