"""Tokens are drawn from the distribution that transformers' own processors leave, each row for itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from server.engine.protocol import SamplingParams
from server.engine.torch.sampler import NUM_CANDIDATES, Bias, Row, Sampled, random_stream, sample_rows

VOCABULARY = 4 * NUM_CANDIDATES
DRAWS = 4000
TRUNCATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 20},
    "top_k beyond the candidates": {"top_k": 2 * NUM_CANDIDATES, "top_p": 0.9},
    "top_k beyond the vocabulary": {"top_k": 10 * VOCABULARY, "top_p": 0.5},
    "top_p": {"top_p": 0.7},
    "top_p beyond the candidates": {"top_p": 0.98, "temperature": 3.0},
    "min_p": {"min_p": 0.05},
    "all of them": {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3},
}


def logits_of(seed: int, *, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))


def row(seed: int = 0, *, prompt: list[int] | None = None, generated: list[int] | None = None, **params: Any) -> Row:
    asked = SamplingParams(max_tokens=8, **params)
    return Row(asked, random_stream(seed), prompt or [], generated or [], Bias.of(asked))


def expected_probabilities(logits: Tensor, **params: Any) -> Tensor:
    warpers = [TemperatureLogitsWarper(params.get("temperature", 1.0))]
    if "top_k" in params:
        warpers.append(TopKLogitsWarper(min(params["top_k"], VOCABULARY)))
    if "top_p" in params:
        warpers.append(TopPLogitsWarper(params["top_p"]))
    if "min_p" in params:
        warpers.append(MinPLogitsWarper(params["min_p"]))
    return LogitsProcessorList(warpers)(torch.zeros(1, 0, dtype=torch.long), logits[None])[0].softmax(dim=-1)


@pytest.mark.parametrize("params", TRUNCATIONS.values(), ids=TRUNCATIONS)
def test_draws_follow_the_distribution_of_transformers(params: dict[str, Any]) -> None:
    logits = logits_of(0)
    expected = expected_probabilities(logits, **params)
    drawn = sample_rows(logits.expand(DRAWS, -1), [row(seed, **params) for seed in range(DRAWS)])
    frequency = torch.bincount(torch.tensor([one.token_id for one in drawn]), minlength=VOCABULARY) / DRAWS
    assert not frequency[expected == 0].any()
    # of independent draws: half the sum of the standard deviations of the frequencies, and half again
    tolerance = 1.5 * float((expected * (1 - expected) / DRAWS).sqrt().sum() / 2)
    assert float((frequency - expected).abs().sum() / 2) < tolerance


def test_truncation_leaves_the_least_likely_token_of_the_set_and_none_beyond() -> None:
    """Draws at the very end of a stream's range, where a wrong edge shows."""
    logits = logits_of(1)
    for params in TRUNCATIONS.values():
        expected = expected_probabilities(logits, **params)
        kept = {int(index) for index in expected.nonzero()[:, 0]}
        edges = [row(seed, **params) for seed in range(500)]
        assert {one.token_id for one in sample_rows(logits.expand(500, -1), edges)} <= kept


def test_a_row_is_drawn_alone_as_among_others() -> None:
    logits = torch.stack([logits_of(seed) for seed in range(12)])
    settings = [*TRUNCATIONS.values(), {"temperature": 0.0}, {"repetition_penalty": 1.5}, {"num_logprobs": 3}]

    def rows() -> list[Row]:
        return [row(seed, prompt=[1, 2], generated=[3], **params) for seed, params in enumerate(settings)]

    together = sample_rows(logits, rows())
    alone = [sample_rows(logits[index : index + 1], [one])[0] for index, one in enumerate(rows())]
    assert [one.token_id for one in together] == [one.token_id for one in alone]
    assert [one.logprob for one in together] == pytest.approx([one.logprob for one in alone])


def test_a_stream_gives_one_number_a_token() -> None:
    """So that a sequence's draws do not depend on which way a row was truncated before."""
    logits = logits_of(2)[None]
    for params in TRUNCATIONS.values():
        stream = random_stream(7)
        sample_rows(logits, [Row(SamplingParams(max_tokens=8, **params), stream, [], [])])
        other = random_stream(7)
        torch.rand((), generator=other, dtype=torch.float64)
        assert torch.equal(stream.get_state(), other.get_state())


def greedy(logits: Tensor, **changes: Any) -> Sampled:
    (sampled,) = sample_rows(logits[None], [row(temperature=0.0, **changes)])
    return sampled


def test_repetition_is_penalised_as_transformers_does() -> None:
    logits = logits_of(3)
    seen = [int(index) for index in logits.topk(5).indices] + [int(logits.argmin())]
    expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([seen]), logits[None])[0]
    assert greedy(logits, repetition_penalty=1.8, prompt=seen[:3], generated=seen[3:]).token_id == int(
        expected.argmax()
    )
    assert int(expected.argmax()) != int(logits.argmax())


def test_frequency_and_presence_count_what_was_generated() -> None:
    """OpenAI's definition: logit - count * frequency_penalty - [count > 0] * presence_penalty."""
    logits = torch.zeros(8)
    logits[[1, 2, 3]] = torch.tensor([5.0, 4.0, 3.1])
    assert greedy(logits, prompt=[1, 1, 1], frequency_penalty=2.0, presence_penalty=2.0).token_id == 1
    assert greedy(logits, generated=[1], frequency_penalty=0.9).token_id == 1
    assert greedy(logits, generated=[1, 1], frequency_penalty=0.9).token_id == 2
    assert greedy(logits, generated=[1, 1], presence_penalty=0.9).token_id == 1
    assert greedy(logits, generated=[1, 2], presence_penalty=2.0).token_id == 3


def test_a_bias_is_added() -> None:
    logits = logits_of(4)
    assert greedy(logits, logit_bias=((17, 100.0),)).token_id == 17
    best = int(logits.argmax())
    assert greedy(logits, logit_bias=((best, -100.0),)).token_id == int(logits.topk(2).indices[1])


def test_log_probabilities_are_the_models_own() -> None:
    logits = logits_of(5)
    expected = logits.log_softmax(dim=-1)
    changed = {"temperature": 2.0, "top_k": 3, "repetition_penalty": 3.0, "num_logprobs": 4}
    (sampled,) = sample_rows(logits[None], [row(prompt=[int(logits.argmax())], **changed)])
    assert sampled.logprob == pytest.approx(float(expected[sampled.token_id]))
    assert [token_id for token_id, _ in sampled.top_logprobs] == logits.topk(4).indices.tolist()
    assert [logprob for _, logprob in sampled.top_logprobs] == pytest.approx(expected.topk(4).values.tolist())


def test_rows_get_as_many_logprobs_as_they_asked_for() -> None:
    logits = logits_of(6).expand(3, -1)
    rows = [row(num_logprobs=count) for count in (0, 5, 2)]
    assert [len(one.top_logprobs) for one in sample_rows(logits, rows)] == [0, 5, 2]


def test_logits_are_left_as_they_were() -> None:
    logits = logits_of(7)[None]
    before = logits.clone()
    asked = replace(row().params, repetition_penalty=2.0, logit_bias=((0, 1.0),))
    sample_rows(logits, [Row(asked, random_stream(0), [1], [2], Bias.of(asked))])
    assert torch.equal(logits, before)
