"""The fused decoder computes what the model's own modules do, and a sequence's part is the same beside others."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from model import AutoCompressor
from server.engine.torch.attention import SdpaKernels, Span
from server.engine.torch.packed import PackedModel
from server.engine.torch.packed_linear import PackedLayers, PackedLinear
from tests.tiny import FAMILIES, random_ids, tiny_anchored, tiny_compressor

FUSED = ("llama", "mistral", "qwen2", "qwen3")
LAYERS = (1, 2)
LENGTHS = (5, 16, 16, 40)
BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no instructions to pack it for"
    ),
)


def packed(model: AutoCompressor, *, fuses: bool = True, merges: bool = True) -> PackedModel:
    return PackedModel(model, SdpaKernels(), num_rows=2, max_tokens=64, fuses=fuses, merges_adapter=merges)


@torch.inference_mode()
def computed(model: PackedModel, lengths: Sequence[int], reads: Sequence[bool]) -> tuple[Tensor, list[Tensor]]:
    """Last states of runs of so many tokens, then of two rows' next tokens beside a run; and those after `LAYERS`."""
    rows = [model.pool.row(0), model.pool.row(1)]
    ids = [random_ids(1, length, seed=seed)[0] for seed, length in enumerate(lengths)]
    lines = [*rows, *([None] * len(lengths))]
    spans = [Span(length, line, num_kept=length) for length, line in zip(lengths, lines, strict=False)]
    first = forward(model, ids, [0] * len(ids), spans, reads)
    decodes = [
        Span(1, row, length, 1, row=index) for index, (row, length) in enumerate(zip(rows, lengths, strict=False))
    ]
    ids = [torch.tensor([7]), torch.tensor([8]), ids[-1]]
    second = forward(model, ids, [*lengths[:2], 0], [*decodes, Span(lengths[-1])], [*reads[:2], reads[-1]])
    return torch.cat([first[0], second[0]]), [torch.cat(pair) for pair in zip(first[1], second[1], strict=True)]


def forward(
    model: PackedModel, ids: Sequence[Tensor], starts: Sequence[int], spans: Sequence[Span], reads: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    embeds = model.model.embed(torch.cat(list(ids))[None])[0]
    places = torch.cat([torch.arange(start, start + len(own)) for start, own in zip(starts, ids, strict=True)])
    return model.forward(embeds, places, spans, is_reading=list(reads), layers=LAYERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_are_known_are_fused(family: str) -> None:
    assert (packed(tiny_compressor(family))._fused is not None) is (family in FUSED)


def test_a_format_that_cannot_be_packed_is_not() -> None:
    assert packed(tiny_compressor(dtype=torch.float16))._fused is None


def test_a_layer_with_a_product_of_another_kind_is_not() -> None:
    """One that is quantised, say: the server's start ended in an assertion."""

    class Other(nn.Linear):
        pass

    model = tiny_compressor()
    attention = model.base.base_model.layers[-1].self_attn
    attention.q_proj.__class__ = Other
    assert packed(model)._fused is None


@pytest.mark.parametrize("family", FUSED)
def test_states_stay(family: str) -> None:
    own, last = (
        computed(packed(tiny_compressor(family), fuses=fuses), LENGTHS, [False] * 4) for fuses in (True, False)
    )
    torch.testing.assert_close(own, last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("reads", [[True] * 4, [False] * 4, [False, True, True, False]], ids=["all", "none", "some"])
def test_states_stay_with_an_adapter(reads: list[bool], merges: bool) -> None:
    """Which is on where vectors are read: the first and the last run, or none, or all."""
    plain = computed(packed(tiny_anchored(), fuses=False, merges=merges), LENGTHS, reads)
    torch.testing.assert_close(
        computed(packed(tiny_anchored(), merges=merges), LENGTHS, reads), plain, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
def test_a_run_is_the_same_beside_others(dtype: torch.dtype) -> None:
    """To the bit, at this size, at which products are."""
    model = packed(tiny_compressor(dtype=dtype))
    ids = [random_ids(1, length, seed=seed)[0] for seed, length in enumerate(LENGTHS)]
    with torch.inference_mode():
        together, _ = forward(model, ids, [0] * 4, [Span(length) for length in LENGTHS], [False] * 4)
        for own, states in zip(ids, together.split(LENGTHS), strict=True):
            alone, _ = forward(model, [own], [0], [Span(len(own))], [False])
            assert torch.equal(alone, states)


def test_a_weight_is_packed_once_for_the_layers_it_stands_beside() -> None:
    one, other, third = (nn.Linear(8, 8) for _ in range(3))
    layers = PackedLayers()
    assert layers.packed(one, other) is layers.packed(one, other)
    assert layers.packed(one, other) is not layers.packed(one, third)
    assert layers.packed(one) is not layers.packed(one, other)


@pytest.mark.parametrize("has_bias", [True, False])
def test_layers_side_by_side_with_what_follows(has_bias: bool) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(96, width, bias=has_bias) for width in (64, 32)]
    rows, other = torch.randn(8, 96), torch.randn(8, 96)
    with torch.inference_mode():
        one, plain = PackedLinear(*linears), torch.cat([linear(rows) for linear in linears], dim=1)
        torch.testing.assert_close(one.product(rows), plain)
        torch.testing.assert_close(one.product(rows, "swish"), nn.functional.silu(plain))
        torch.testing.assert_close(one.product_with(rows, other, "add"), plain + other)
        torch.testing.assert_close(one.product_with(rows, other, "mul"), plain * other)
