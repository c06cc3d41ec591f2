"""The kernels alone: what is known before a run counts as if the run had begun with it."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from server.engine.torch.attention import Options, Run, SdpaKernels

HEADS, WIDTH, KNOWN, LENGTH = 8, 16, 9, 20
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_heads", [HEADS, 2], ids=["each head its own", "grouped"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_run_after_what_is_known_is_the_end_of_a_whole_run(
    dtype: torch.dtype, num_heads: int, window: int | None
) -> None:
    query = random(KNOWN + LENGTH, HEADS, WIDTH, seed=0, dtype=dtype)
    key, value = (random(KNOWN + LENGTH, num_heads, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2))
    options = Options(0.3, window)
    whole = SdpaKernels().prefill([Run(query, key, value)], options)
    known = key[:KNOWN].transpose(0, 1), value[:KNOWN].transpose(0, 1)
    end = SdpaKernels().prefill([Run(query[KNOWN:], key[KNOWN:], value[KNOWN:], known)], options)
    torch.testing.assert_close(end, whole[KNOWN:], rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(whole, expected(query, key, value, options), rtol=0, atol=TOLERANCE[dtype])


def expected(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    place = torch.arange(len(query))
    distance = place[:, None] - place
    mask = (distance >= 0) & (distance < (options.sliding_window or len(query)))
    groups = HEADS // key.shape[1]
    heads = (
        query.transpose(0, 1).float(),
        *(tensor.transpose(0, 1).repeat_interleave(groups, dim=0).float() for tensor in (key, value)),
    )
    return scaled_dot_product_attention(*heads, attn_mask=mask, scale=options.scale).transpose(0, 1).to(query.dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_heads", [HEADS, 2], ids=["each head its own", "grouped"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_decode_is_the_last_of_a_whole_run(dtype: torch.dtype, num_heads: int, window: int | None) -> None:
    """Rows of different lengths together; what lies past a row's length does not count."""
    lengths = [LENGTH, 3, 11]
    keys, values = (random(len(lengths), num_heads, LENGTH + 4, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2))
    query = random(len(lengths), HEADS, WIDTH, seed=0, dtype=dtype)
    options = Options(0.3, window)
    decoded = SdpaKernels().decode(query, keys, values, torch.tensor(lengths), options)
    for row, length in enumerate(lengths):
        own = (tensor[row, :, :length].transpose(0, 1) for tensor in (keys, values))
        whole = expected(query[row].expand(length, -1, -1), *own, options)
        torch.testing.assert_close(decoded[row], whole[-1], rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 6, LENGTH])
def test_a_run_is_the_same_beside_others_of_its_length(dtype: torch.dtype, window: int | None) -> None:
    """To the bit: segments that are read alone are the same whichever stand beside them."""
    options, count = Options(0.3, window), 3
    query, key, value = (random(count * LENGTH, heads, WIDTH, seed=7, dtype=dtype) for heads in (HEADS, 2, 2))
    together = SdpaKernels().prefill([Run(query, key, value, num_spans=count)], options).split(LENGTH)
    for output, *parts in zip(together, *(tensor.split(LENGTH) for tensor in (query, key, value)), strict=True):
        assert torch.equal(output, SdpaKernels().prefill([Run(*parts)], options))
