"""Packed layers compute what the ones they replace do."""

import pytest
import torch
from torch import nn

from model.precision import computes_in_bfloat16
from server.engine.packed_linear import PackedLinear, pack_linear_layers
from tests.tiny import tiny_compressor

needs_bfloat16 = pytest.mark.skipif(
    not computes_in_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16 instructions"
)


@needs_bfloat16
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 7, 200])
def test_results_stay(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 64, bias=has_bias, dtype=torch.bfloat16)
    states = torch.randn(1, num_rows, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(states), linear(states))


@needs_bfloat16
def test_a_model_in_bfloat16_is_packed_whole_and_one_in_float32_stays() -> None:
    packed, plain = tiny_compressor(dtype=torch.bfloat16).base, tiny_compressor().base
    embeddings = packed.get_input_embeddings().weight
    pack_linear_layers(packed)
    pack_linear_layers(plain)
    assert not [module for module in packed.modules() if type(module) is nn.Linear]
    assert [module for module in plain.modules() if type(module) is nn.Linear]
    assert packed.get_input_embeddings().weight is embeddings
