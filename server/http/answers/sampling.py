"""A request's fields to the engine's parameters."""

from dataclasses import replace

from server.core.served_model import ServedModel
from server.engine.protocol import SamplingParams
from server.http.schemas.conditioning import Sampling
from server.http.schemas.openai import Asked
from server.limits import MAX_SEED

SAME_NAMES = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "seed",
}


def sampling_params(body: Sampling, model: ServedModel, max_tokens: int) -> SamplingParams:
    """What is null is the model's own default."""
    given = body.model_dump(include=SAME_NAMES, exclude_none=True)
    if given.get("top_k", 1) <= 0:
        given["top_k"] = None
    return SamplingParams(
        max_tokens=max_tokens,
        stop=body.stops,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        **{**model.sampling, **given},
    )


def with_seed_of(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of one of several choices: each draws from a stream of its own, the same for a request's seed."""
    return params if params.seed is None else replace(params, seed=(params.seed + index) % (MAX_SEED + 1))


def biases(body: Asked, model: ServedModel) -> tuple[tuple[int, float], ...]:
    """The request's `logit_bias`; InvalidRequest for a token that is not in the vocabulary."""
    by_token = {int(token_id): bias for token_id, bias in (body.logit_bias or {}).items()}
    model.require_known(list(by_token), param="logit_bias")
    return tuple(by_token.items())
