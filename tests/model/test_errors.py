"""A wrong input is a ValueError that names the value and the limit; an unsupported architecture, a sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    CohereConfig,
    CpmAntConfig,
    Gemma2Config,
    LlamaModel,
    PreTrainedConfig,
)

from model import AutoCompressor, SummaryConfig
from model.positions import Positions
from tests.tiny import random_base, random_ids, tiny_base, tiny_compressor, tiny_config

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def model() -> AutoCompressor:
    """A Llama with 32 positions and summaries of 4 vectors."""
    return tiny_compressor("llama", max_positions=32, summary_length=4)


@pytest.fixture(scope="module")
def opt() -> AutoCompressor:
    return tiny_compressor("opt", max_positions=32, summary_length=4)


@pytest.fixture(params=["compress", "forward", "generate"])
def call(request: pytest.FixtureRequest, model: AutoCompressor) -> Call:
    return getattr(model, request.param)


def vectors(count: int, *, batch: int = 1, width: int = 32) -> Tensor:
    return torch.full((batch, count, width), 0.1)


# --- too long


def test_a_segment_longer_than_rotary_positions(model: AutoCompressor) -> None:
    assert model(random_ids(1, 32)).logits.shape[1] == 32
    with pytest.raises(ValueError, match="segment of 33 tokens is longer than the 32"):
        model(random_ids(1, 33))


def test_summary_tokens_and_soft_prompt_take_rotary_positions(model: AutoCompressor) -> None:
    assert model.compress(random_ids(1, 28)).shape[1] == 4
    with pytest.raises(ValueError, match=r"29 tokens is longer than the 28 .* 32 positions"):
        model.compress(random_ids(1, 29))
    assert model.compress(random_ids(1, 18), soft_prompt=vectors(10)).shape[1] == 4
    with pytest.raises(ValueError, match=r"19 tokens is longer than the 18 .* 10 soft prompt vectors"):
        model.compress(random_ids(1, 19), soft_prompt=vectors(10))
    with pytest.raises(ValueError, match=r"1 tokens is longer .* 40 soft prompt vectors"):
        model(random_ids(1, 1), soft_prompt=vectors(40))


def test_a_chain_that_outgrows_the_positions(model: AutoCompressor) -> None:
    """Seven segments of 4 fit; of 32 positions, their 28 vectors and 4 summary tokens leave the next one none."""
    assert model.compress(random_ids(1, 28), segment_lengths=4).shape[1] == 28
    with pytest.raises(ValueError, match="4 tokens is longer than the 0 "):
        model.compress(random_ids(1, 32), segment_lengths=4)


def test_a_segment_longer_than_the_position_table_of_opt(opt: AutoCompressor) -> None:
    assert opt.compress(random_ids(1, 32), soft_prompt=vectors(40)).shape[1] == 4
    with pytest.raises(ValueError, match="segment of 33 tokens is longer than the 32"):
        opt.compress(random_ids(1, 33))
    with pytest.raises(ValueError, match="segment of 33 tokens is longer than the 32"):
        opt(random_ids(1, 40), segment_lengths=[7, 33])


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_generation_beyond_the_positions(family: str) -> None:
    model = tiny_compressor(family, max_positions=32)
    assert model.generate(random_ids(1, 20), max_new_tokens=12, eos_token_id=320).shape == (1, 32)
    with pytest.raises(ValueError, match="20 tokens and 13 new ones do not fit the 32"):
        model.generate(random_ids(1, 20), max_new_tokens=13)


def test_generation_after_a_soft_prompt_that_leaves_too_little(model: AutoCompressor) -> None:
    with pytest.raises(ValueError, match=r"20 tokens and 3 new ones do not fit the 22 .* 10 soft prompt vectors"):
        model.generate(random_ids(1, 20), soft_prompt=vectors(10), max_new_tokens=3)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_generation_beyond_the_positions_between_compressions(family: str) -> None:
    """The length at which the context is compressed lies beyond the last position."""
    model = tiny_compressor(family, max_positions=32)
    with pytest.raises(ValueError, match="32"):
        model.generate(random_ids(1, 30), segment_lengths=64, max_new_tokens=20, eos_token_id=320)


# --- segment lengths


def test_segment_lengths_that_do_not_add_up(call: Call) -> None:
    with pytest.raises(ValueError, match=r"\[8, 7\] add up to 15; the input has 16 tokens"):
        call(random_ids(1, 16), segment_lengths=[8, 7])


@pytest.mark.parametrize("lengths", [[8, 0, 8], [0, 16], [20, -4], 0, -1])
def test_a_segment_without_tokens(call: Call, lengths: list[int] | int) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        call(random_ids(1, 16), segment_lengths=lengths)


def test_no_segments(call: Call) -> None:
    with pytest.raises(ValueError, match=r"\[\] add up to 0; the input has 16 tokens"):
        call(random_ids(1, 16), segment_lengths=[])


# --- shapes


def test_an_empty_document(call: Call) -> None:
    with pytest.raises(ValueError, match=r"0 tokens.* at least 1"):
        call(torch.zeros(1, 0, dtype=torch.long))


@pytest.mark.parametrize("shape", [(8,), (1, 8, 1)])
def test_token_ids_of_another_rank(call: Call, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input_ids have the shape \(.*8.*expected \(batch, tokens\)"):
        call(torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2, 7), (2, 9), (1, 8), (8,)])
def test_a_mask_of_another_shape(call: Call, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"attention_mask is \(.*; input_ids are \(2, 8\)"):
        call(random_ids(2, 8), torch.ones(shape, dtype=torch.long))


def test_a_soft_prompt_of_another_width(call: Call) -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 24\); expected \(batch, vectors, 32\)"):
        call(random_ids(1, 8), soft_prompt=vectors(4, width=24))


def test_a_soft_prompt_of_another_rank(call: Call) -> None:
    with pytest.raises(ValueError, match=r"\(4, 32\); expected \(batch, vectors, 32\)"):
        call(random_ids(1, 8), soft_prompt=vectors(4)[0])


@pytest.mark.parametrize("batch", [0, 2])
def test_a_soft_prompt_of_another_batch(call: Call, batch: int) -> None:
    with pytest.raises(ValueError, match=f"batch of {batch}; expected 1 or 3"):
        call(random_ids(3, 8), soft_prompt=vectors(4, batch=batch))


def test_labels_of_another_shape(model: AutoCompressor) -> None:
    with pytest.raises(ValueError, match=r"labels are \(2, 7\); input_ids are \(2, 8\)"):
        model(random_ids(2, 8), labels=random_ids(2, 7))


# --- what a call cannot do


def test_compression_without_summary_tokens() -> None:
    plain = tiny_compressor(summary_length=0)
    with pytest.raises(ValueError, match="summary_length is 0"):
        plain.compress(random_ids(1, 8))


def test_generation_from_rows_padded_on_the_right(model: AutoCompressor) -> None:
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 6:] = 0
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(random_ids(2, 8), mask)


# --- configuration


def test_a_negative_summary_length() -> None:
    with pytest.raises(ValueError, match="summary_length is -1; it must be 0 or more"):
        SummaryConfig(summary_length=-1, accumulate_summary=True, segment_length=8)


def test_a_segment_length_below_one() -> None:
    with pytest.raises(ValueError, match="segment_length is 0; it must be 1 or more"):
        SummaryConfig(summary_length=4, accumulate_summary=True, segment_length=0)


def test_a_segment_length_below_one_is_no_default() -> None:
    with pytest.raises(ValueError, match="segment_length is 0"):
        AutoCompressor.from_base(tiny_base("llama"), segment_length=0)


def test_an_architecture_without_a_number_of_positions() -> None:
    with pytest.raises(ValueError, match="bloom architecture has no max_position_embeddings"):
        Positions.of(BloomConfig())


# --- architectures


def refusal(config: PreTrainedConfig) -> str:
    base = random_base(config)
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the callers look at the sentence
        AutoCompressor.from_base(base, summary_length=4)
    return str(error.value)


def test_an_architecture_that_cannot_take_embeddings() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "dim_head": 8, "dim_ff": 16, "num_hidden_layers": 1}
    assert refusal(CpmAntConfig(vocab_size=64, **sizes)) == (
        "CpmAntForCausalLM cannot take `inputs_embeds`, which soft prompts need: it cannot be a base model"
    )


def test_an_architecture_that_cannot_take_positions() -> None:
    assert refusal(BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)) == (
        "BloomForCausalLM cannot take `position_ids`, which soft prompts need: it cannot be a base model"
    )


SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "eos_token_id": 0,
}


@pytest.mark.parametrize("softcap", [1.0, 30.0])
@pytest.mark.parametrize("scale", [0.2, 0.02], ids=["wide-weights", "fresh-weights"])
def test_logits_that_are_capped(softcap: float, scale: float) -> None:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=softcap, initializer_range=scale)
    assert refusal(config).startswith("Gemma2ForCausalLM changes its logits after the output layer")


def test_logits_that_are_not_capped_after_all() -> None:
    base = random_base(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=None, initializer_range=0.2))
    model, ids = AutoCompressor.from_base(base, summary_length=0), random_ids(1, 8)
    torch.testing.assert_close(model(ids).logits, base(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_logits_that_are_scaled() -> None:
    config = CohereConfig(**SIZES, logit_scale=0.0625, initializer_range=0.2)
    assert refusal(config).startswith("CohereForCausalLM changes its logits after the output layer")


def test_a_model_without_an_output_layer() -> None:
    with pytest.raises(ValueError, match="LlamaModel is not a Hugging Face causal language model"):
        AutoCompressor.from_base(LlamaModel(tiny_config("llama")), summary_length=4)


def test_something_that_is_no_model() -> None:
    with pytest.raises(ValueError, match="Linear is not a Hugging Face causal language model"):
        AutoCompressor(torch.nn.Linear(2, 2), SummaryConfig(4, accumulate_summary=True, segment_length=8))
