"""Logits to tokens, each row by its own parameters and its own random stream."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.generation import sample
from server.engine.protocol import SamplingParams

GREEDY_TEMPERATURE = 1e-5  # below it, dividing logits could overflow, and all draws are the most likely token anyway


class Sampled(NamedTuple):
    """A token and its natural log-probability under the model's own distribution."""

    token_id: int
    logprob: float


def random_stream(seed: int | None) -> torch.Generator:
    """A sequence's own stream of random numbers, on the CPU: the same for a seed whatever else is in the batch."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def sample_rows(
    logits: Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator]
) -> list[Sampled]:
    """Choose a token for each row of (N, V) logits."""
    logits = logits.float().cpu()
    logprobs = logits.log_softmax(dim=-1)
    best = logits.argmax(dim=-1).tolist()
    chosen = []
    for row, (param, generator) in enumerate(zip(params, generators, strict=True)):
        token_id = best[row] if param.temperature < GREEDY_TEMPERATURE else _draw(logits[row], param, generator)
        chosen.append(Sampled(token_id, float(logprobs[row, token_id])))
    return chosen


def _draw(logits: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    drawn = sample(
        logits[None],
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        generator=generator,
    )
    return int(drawn)
