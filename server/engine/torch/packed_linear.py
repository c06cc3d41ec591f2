"""Linear layers whose weights lie as oneDNN's kernels for the CPU read them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

EXACT_ROWS, FINE_ROWS = 32, 512  # up to the one as they are, to the other in steps of 16, beyond in steps of 128


class PackedLinear(nn.Module):
    """What linear layers of the same states compute, side by side, without weights being put in order each time.

    The operators are those that torch's own compiler packs frozen weights with (`torch._inductor`, `mkldnn_fusion`).
    For a few rows, as in a decode, a product takes three to four fifths of the time, of eight rows in float32 half;
    results are the same to rounding. Numbers of rows are rounded up: what oneDNN compiles for one it keeps for good, a
    fifth of a megabyte, whatever the capacity of its cache.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        self._bias = _joined([linear.bias for linear in linears])
        weights = [linear.weight.detach() for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0].contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(self, states: Tensor) -> Tensor:
        rows = states.flatten(0, -2)
        num_added = rounded_up(len(rows)) - len(rows)
        if num_added:
            rows = functional.pad(rows, (0, 0, 0, num_added))
        output = self.product(rows)
        return output[: len(output) - num_added].view(*states.shape[:-1], -1)

    def product(self, rows: Tensor, activation: Literal["none", "swish"] = "none") -> Tensor:
        """Of (N, in), N a number that `rounded_up` gives, (N, out); what follows is computed before it is rounded."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, self._weight, self._bias, activation, [], "")
        return output

    def product_with(self, rows: Tensor, other: Tensor, operation: Literal["add", "mul"]) -> Tensor:
        """`product`, to which (N, out) others are added, or with which they are multiplied, before it is rounded."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, self._weight, self._bias, operation)
        return output


def _joined(biases: Sequence[Tensor | None]) -> Tensor | None:
    own = [bias.detach() for bias in biases if bias is not None]
    assert len(own) in (0, len(biases)), "some layers have a bias and others none"
    return torch.cat(own) if own else None


def rounded_up(num_rows: int) -> int:
    """To one of a few numbers of rows."""
    if num_rows <= EXACT_ROWS:
        return num_rows
    step = 16 if num_rows <= FINE_ROWS else 128
    return -(-num_rows // step) * step


class _Packed(NamedTuple):
    others: list[ref[Tensor]]  # weights, beside the first
    layer: PackedLinear


class PackedLayers:
    """Packs the linear layers of models, a weight that several have once for all of them."""

    def __init__(self) -> None:
        # weakly: a weight that is packed is not to stay for it, nor another one to be taken for it in its place
        self._packed = WeakTensorKeyDictionary()

    def pack(self, model: nn.Module) -> None:
        """Replace the linear layers of a model on a CPU in place, where torch can pack their dtype."""
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and can_pack(module):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, self.packed(module))

    def packed(self, *linears: nn.Linear) -> PackedLinear:
        """These layers as one."""
        first, *others = (linear.weight for linear in linears)
        known: _Packed | None = self._packed.get(first)
        if known is None or [id(each()) for each in known.others] != [id(each) for each in others]:
            known = self._packed[first] = _Packed([ref(each) for each in others], PackedLinear(*linears))
        return known.layer


def can_pack(linear: nn.Linear) -> bool:
    return linear.weight.is_cpu and linear.weight.dtype in _packable()


def _packable() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset({torch.float32, torch.bfloat16})
    return frozenset({torch.float32})
