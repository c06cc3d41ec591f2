"""Packed layers compute what the ones they replace do."""

import pytest
import torch
from torch import nn

from server.engine.torch.packed_linear import PackedLayers, PackedLinear, rounded_up
from tests.tiny import tiny_compressor

DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no instructions to pack it for"
        ),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 7, 33, 200, 530])
def test_results_stay(num_rows: int, has_bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 64, bias=has_bias, dtype=dtype)
    states = torch.randn(1, num_rows, 96, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(states), linear(states))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_among_others(dtype: torch.dtype) -> None:
    """To the bit, as what is kept of a prompt was read beside other rows."""
    torch.manual_seed(0)
    packed = PackedLinear(nn.Linear(96, 64, dtype=dtype))
    states = torch.randn(1, 600, 96, dtype=dtype)
    with torch.inference_mode():
        whole = packed(states)
        for first, last in ((0, 2), (0, 31), (100, 228), (3, 43), (250, 600)):
            assert torch.equal(packed(states[:, first:last]), whole[:, first:last])


def test_of_numbers_of_rows_there_are_few() -> None:
    """What oneDNN compiles for one stays: a server that reads texts of all lengths grew by hundreds of megabytes."""
    rounded = [rounded_up(number) for number in range(1, 4097)]
    assert all(number <= padded < number * 1.5 for number, padded in enumerate(rounded, start=1))
    assert len(set(rounded)) == 32 + 30 + 28


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_is_packed_whole(dtype: torch.dtype) -> None:
    packed = tiny_compressor(dtype=dtype).base
    embeddings = packed.get_input_embeddings().weight
    PackedLayers().pack(packed)
    assert not [module for module in packed.modules() if type(module) is nn.Linear]
    assert packed.get_input_embeddings().weight is embeddings


def test_a_dtype_that_cannot_be_packed_stays() -> None:
    plain = tiny_compressor(dtype=torch.float64).base
    PackedLayers().pack(plain)
    assert [module for module in plain.modules() if type(module) is nn.Linear]
