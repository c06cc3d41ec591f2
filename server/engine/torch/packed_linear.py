"""Linear layers whose weights lie as oneDNN's kernels for the CPU read them."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

EXACT_ROWS, FINE_ROWS = 32, 512  # up to the one as they are, to the other in steps of 16, beyond in steps of 128


class PackedLinear(nn.Module):
    """What a linear layer computes, without its weight being put in order at every call.

    The operators are those that torch's own compiler packs frozen weights with (`torch._inductor`, `mkldnn_fusion`).
    For a few rows, as in a decode, a product takes three to four fifths of the time, of eight rows in float32 half;
    results are the same to rounding. Numbers of rows are rounded up: what oneDNN compiles for one it keeps for good, a
    fifth of a megabyte, whatever the capacity of its cache.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach().clone()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)

    def forward(self, states: Tensor) -> Tensor:
        rows = states.flatten(0, -2)
        num_added = rounded_up(len(rows)) - len(rows)
        if num_added:
            rows = functional.pad(rows, (0, 0, 0, num_added))
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return output[: len(output) - num_added].view(*states.shape[:-1], -1)


def rounded_up(num_rows: int) -> int:
    """To one of a few numbers of rows."""
    if num_rows <= EXACT_ROWS:
        return num_rows
    step = 16 if num_rows <= FINE_ROWS else 128
    return -(-num_rows // step) * step


class PackedLayers:
    """Packs the linear layers of models, a weight that several have once for all of them."""

    def __init__(self) -> None:
        # weakly: a weight that is packed is not to stay for it, nor another one to be taken for it in its place
        self._packed = WeakTensorKeyDictionary()

    def pack(self, model: nn.Module) -> None:
        """Replace the linear layers of a model on a CPU in place, where torch can pack their dtype."""
        dtypes = _packable()
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and module.weight.is_cpu and module.weight.dtype in dtypes:
                packed = self._packed.get(module.weight)
                if packed is None:
                    packed = self._packed[module.weight] = PackedLinear(module)
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, packed)


def _packable() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset({torch.float32, torch.bfloat16})
    return frozenset({torch.float32})
