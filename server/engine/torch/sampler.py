"""Logits to tokens, all rows at once, each by its own parameters and its own random stream."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from server.engine.protocol import SamplingParams

GREEDY_TEMPERATURE = 1e-5  # below it, dividing logits could overflow, and all draws are the most likely token anyway
NUM_CANDIDATES = 256  # most likely tokens that truncation looks at before it sorts the whole vocabulary
ROWS_TOGETHER = 4  # on a CPU: their logits in float32 stay in its cache from one operator to the next


class Sampled(NamedTuple):
    """A token and its natural log-probability under the model's own distribution; the most likely ones beside it."""

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Bias(NamedTuple):
    """What is added to the logits of some tokens: both (n,), made once for all tokens of an answer."""

    token_ids: Tensor
    values: Tensor

    @classmethod
    def of(cls, params: SamplingParams) -> "Bias | None":
        if not params.logit_bias:
            return None
        token_ids, values = zip(*params.logit_bias, strict=True)
        return cls(torch.tensor(token_ids), torch.tensor(values, dtype=torch.float32))


class Row(NamedTuple):
    """What one sequence asks of its next token: parameters, random stream, the tokens that penalties look at, and the
    bias that its parameters have.
    """

    params: SamplingParams
    stream: torch.Generator
    prompt_ids: Sequence[int]
    generated: Sequence[int]
    bias: Bias | None = None


def random_stream(seed: int | None) -> torch.Generator:
    """A sequence's own stream of random numbers, on the CPU: the same for a seed whatever else is in the batch."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def sample_rows(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """Choose a token for each row of (N, V) logits.

    Penalties and biases first, then temperature, the top_k most likely, the smallest set whose probability reaches
    top_p (nucleus sampling, arXiv 1904.09751), and what has at least min_p of the greatest probability (arXiv
    2407.01082): the order of transformers. Log-probabilities are those before all of it.
    """
    together = ROWS_TOGETHER if logits.is_cpu else len(rows)
    starts = range(0, len(rows), together)
    return [
        sampled
        for start, part in zip(starts, logits.split(together), strict=True)
        for sampled in _sample(part, rows[start : start + together])
    ]


def _sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    logits = logits.float()
    logprobs = logits.log_softmax(dim=-1)  # (N, V)
    adjusted = _adjusted(logits, rows)
    chosen = adjusted.argmax(dim=-1)  # (N,)
    drawing = [index for index, row in enumerate(rows) if row.params.temperature >= GREEDY_TEMPERATURE]
    for is_truncated in (False, True):
        own = [index for index in drawing if _truncates(rows[index].params) is is_truncated]
        if own:
            draw = _draw_truncated if is_truncated else _draw
            chosen[own] = draw(adjusted[own], [rows[index] for index in own])
    token_ids, chosen_logprobs = chosen.tolist(), logprobs.gather(1, chosen[:, None])[:, 0].tolist()
    top_logprobs = most_likely(logprobs, [row.params.num_logprobs for row in rows])
    return [Sampled(*sampled) for sampled in zip(token_ids, chosen_logprobs, top_logprobs, strict=True)]


def _adjusted(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits after penalties and biases: repetition's for every token that stands in the prompt or was generated
    (arXiv 1909.05858), frequency's and presence's for those generated, as OpenAI's API defines them."""
    changed = None
    for index, row in enumerate(rows):
        params = row.params
        if not params.has_adjustments:
            continue
        changed = logits.clone() if changed is None else changed
        own = changed[index]
        if params.repetition_penalty != 1.0:
            seen = torch.tensor(sorted({*row.prompt_ids, *row.generated}), dtype=torch.long, device=own.device)
            values = own[seen]
            own[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        if row.generated and (params.frequency_penalty or params.presence_penalty):
            made = torch.tensor(row.generated, dtype=torch.long, device=own.device)
            ids, counts = made.unique(return_counts=True)
            own[ids] -= params.frequency_penalty * counts + params.presence_penalty
        if row.bias is not None:
            own[row.bias.token_ids.to(own.device)] += row.bias.values.to(own.device)
    return logits if changed is None else changed


def _truncates(params: SamplingParams) -> bool:
    return params.top_k is not None or params.top_p < 1.0 or params.min_p > 0.0


def _scaled(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    temperatures = logits.new_tensor([row.params.temperature for row in rows])
    return logits / temperatures[:, None]


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw from the whole distribution, (M, V) to (M,)."""
    return _at_random(_scaled(logits, rows).softmax(dim=-1), rows)


def _draw_truncated(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw from what truncation leaves; sorts a whole row only where the likeliest few do not settle it."""
    scaled = _scaled(logits, rows)
    width = min(NUM_CANDIDATES, scaled.shape[1])
    probabilities, ids, is_settled = _candidates(scaled, rows, width)
    chosen = ids.gather(1, _at_random(probabilities, rows, streams_at=is_settled)[:, None])[:, 0]
    rest = [index for index, settled in enumerate(is_settled) if not settled]
    if rest:
        own = [rows[index] for index in rest]
        probabilities, ids, _ = _candidates(scaled[rest], own, scaled.shape[1])
        chosen[rest] = ids.gather(1, _at_random(probabilities, own)[:, None])[:, 0]
    return chosen


def _candidates(scaled: Tensor, rows: Sequence[Row], width: int) -> tuple[Tensor, Tensor, list[bool]]:
    """The most likely tokens of each row, (M, width), with probability 0 where truncation drops them.

    Returns:
        Probabilities not normalised, token ids, and whether no token beyond `width` belongs to a row's set.
    """
    params = [row.params for row in rows]
    values, ids = scaled.topk(width, dim=-1)
    vocabulary = scaled.shape[1]
    top_k = values.new_tensor([min(param.top_k or vocabulary, vocabulary) for param in params])[:, None]
    top_p = values.new_tensor([param.top_p for param in params])[:, None]
    min_p = values.new_tensor([param.min_p for param in params])[:, None]
    is_kept = torch.arange(width, device=values.device) < top_k  # (M, width)
    of_kept = values.masked_fill(~is_kept, -math.inf).logsumexp(dim=-1)
    # not logsumexp, which takes the exponentials of all: those too small for a normal number are thirty times as slow
    of_all = scaled.log_softmax(dim=-1).gather(1, ids)
    probabilities = torch.where(top_k < vocabulary, values - of_kept[:, None], of_all).exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    is_kept &= before < top_p  # the token that crosses top_p stays
    is_kept &= probabilities >= min_p * probabilities[:, :1]
    is_kept[:, 0] = True  # a top_p that float32 rounds to 0 leaves the most likely token
    is_settled = torch.where(top_k[:, 0] < vocabulary, top_k[:, 0] <= width, ~is_kept[:, -1]) | (width == vocabulary)
    return probabilities.masked_fill(~is_kept, 0.0), ids, is_settled.tolist()


def _at_random(probabilities: Tensor, rows: Sequence[Row], *, streams_at: Sequence[bool] | None = None) -> Tensor:
    """An index of each row of (M, W) weights by its probability, from one number of the row's stream.

    Where `streams_at` is False the row is not drawn yet: its stream stays, and its index is of no use.
    """
    is_drawn = streams_at or [True] * len(rows)
    numbers = [
        float(torch.rand((), generator=row.stream, dtype=torch.float64)) if own else 0.0
        for row, own in zip(rows, is_drawn, strict=True)
    ]
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    wanted = sums.new_tensor(numbers) * sums[:, -1]
    index = torch.searchsorted(sums, wanted[:, None], right=True)[:, 0]
    last = (probabilities > 0).cumsum(dim=-1).argmax(dim=-1)  # where rounding would go past the end
    return torch.minimum(index, last)


def most_likely(logprobs: Tensor, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """The most likely tokens of each row of (N, V) log-probabilities, as many as its count says, with theirs."""
    if not any(counts):
        return [()] * len(counts)
    values, ids = logprobs.topk(max(counts), dim=-1)
    pairs = zip(ids.tolist(), values.tolist(), counts, strict=True)
    return [tuple(zip(own_ids[:count], own[:count], strict=True)) for own_ids, own, count in pairs]
