"""Sampling parameters in vLLM's terms, and its log-probabilities in ours."""

from collections.abc import Mapping
from typing import Any

import vllm
from vllm.sampling_params import RequestOutputKind

from server.engine.protocol import SamplingParams
from server.errors import InvalidRequest

LEAST_TEMPERATURE = 0.01  # vLLM raises smaller ones to it, which draws the most likely token all but always
MAX_TEMPERATURE = 2.0
Likely = tuple[tuple[int, float], ...]


def to_vllm(params: SamplingParams, end_of_text: frozenset[int]) -> vllm.SamplingParams:
    """The same choice of tokens; stop strings stay here, as vLLM has no tokenizer.

    Raises:
        InvalidRequest: what vLLM does not do.
    """
    if params.temperature > MAX_TEMPERATURE:
        raise InvalidRequest(
            f"temperature is {params.temperature}; this server's engine takes up to {MAX_TEMPERATURE}",
            param="temperature",
        )
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else end_of_text)}
    return vllm.SamplingParams(
        max_tokens=params.max_tokens,
        temperature=0.0 if params.temperature < LEAST_TEMPERATURE else params.temperature,
        top_p=params.top_p,
        top_k=params.top_k or 0,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=dict(params.logit_bias) or None,
        seed=params.seed,
        stop_token_ids=sorted(ends),
        ignore_eos=True,  # ours are all in `ends`
        logprobs=params.num_logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def scoring(last: int, *, has_more: bool, num_logprobs: int) -> vllm.SamplingParams:
    """For a prompt that ends before the last token of a continuation: what all tokens, and this one, are worth.

    The one new token may be `last` alone; log-probabilities are those before that rule.

    Args:
        has_more: whether the prompt has tokens that are scored, which keeps it from being found in the cache.
    """
    return vllm.SamplingParams(
        max_tokens=1,
        temperature=0.0,
        allowed_token_ids=[last],
        ignore_eos=True,
        logprobs=num_logprobs,
        prompt_logprobs=num_logprobs if has_more else None,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def most_likely(logprobs: Mapping[int, Any], count: int) -> Likely:
    """So many of the most likely tokens of one position, of vLLM's record by token id."""
    if not count:
        return ()
    ordered = sorted(((token_id, each.logprob) for token_id, each in logprobs.items()), key=lambda pair: -pair[1])
    return tuple(ordered[:count])
