"""vLLM's own arguments, as whoever starts the server gives them; no vLLM is needed for that."""

from pathlib import Path
from typing import Any

import pytest

from server.engine.vllm.arguments import Facts, parse_arguments
from server.settings import Settings

KNOWN = {"tensor_parallel_size", "quantization", "enforce_eager", "hf_overrides", "model"}
FACTS = Facts(Path("base"), "bfloat16", 4096, 2048, 32, 4096, adapter_rank=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("tensor_parallel_size=2", {"tensor_parallel_size": 2}),
        (
            "tensor-parallel-size=2, quantization=fp8,enforce_eager=true",
            {"tensor_parallel_size": 2, "quantization": "fp8", "enforce_eager": True},
        ),
        (
            '{"hf_overrides": {"a": [1, 2]}, "quantization": null}',
            {"hf_overrides": {"a": [1, 2]}, "quantization": None},
        ),
    ],
)
def test_both_forms_are_read(text: str, expected: dict[str, Any]) -> None:
    assert parse_arguments(text, known=KNOWN, taken=FACTS.names) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tensor_paralel_size=2", "'tensor_paralel_size', which this vLLM does not know"),
        ("model=other", "'model', which follows from this server's own settings"),
        ("enforce_eager", "'enforce_eager' without a value"),
        ("{not json}", "not a JSON object"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_arguments(text, known=KNOWN, taken=FACTS.names)


def test_an_adapter_takes_the_next_rank_that_vllm_has() -> None:
    assert FACTS.generating()["max_lora_rank"] == 16
    assert "enable_lora" not in FACTS.pooling()
    with pytest.raises(ValueError, match="rank 513; vLLM takes up to 512"):
        Facts(Path("base"), "bfloat16", 4096, 2048, 32, 4096, adapter_rank=513).generating()


def test_a_segment_may_take_the_models_positions_whatever_an_answer_may() -> None:
    """A document whose vectors exceeded max_sequence_tokens failed in its middle."""
    assert (FACTS.pooling()["max_model_len"], FACTS.generating()["max_model_len"]) == (4096, 2049)


def test_arguments_need_the_engine_that_takes_them() -> None:
    with pytest.raises(ValueError, match="engine_args are vLLM's, and engine is 'torch'"):
        Settings(engine_args="tensor_parallel_size=2")
