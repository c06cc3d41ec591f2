"""Vectors as int8: how far off they are, and that they are rounded once."""

import pytest
import torch

from model.int8 import dequantised, quantised, rounded

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def test_components_are_within_half_a_step_of_what_they_were() -> None:
    vectors = torch.randn(50, 32, generator=torch.manual_seed(0)) * 3
    vectors[7] = 0
    whole, scales = quantised(vectors)
    assert whole.dtype == torch.int8
    assert (whole.abs().amax(dim=1) == 127).sum() == 49
    back = dequantised(whole, scales, torch.float32)
    assert ((back - vectors).abs() <= scales[:, None] / 2 + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_rounded_once_is_not_rounded_again(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    for size in (1e-6, 0.01, 1.0, 300.0):
        vectors = (torch.randn(20_000, 16, generator=draw) * size * torch.rand(20_000, 1, generator=draw)).to(dtype)
        once = rounded(vectors)
        assert once.dtype == dtype
        assert torch.equal(rounded(once), once)


def test_the_largest_component_gives_its_scale_again() -> None:
    """Every float32 from 1 to 2, which stands for those of all other exponents."""
    for start in range(0, 2**23, 2**20):
        largest = (torch.arange(start, start + 2**20, dtype=torch.int32) + 0x3F800000).view(torch.float32)
        once = rounded(largest[:, None])
        assert torch.equal(rounded(once), once)
