"""Linear layers whose weights lie as oneDNN's kernels for the CPU read them."""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What a linear layer computes, without its weight being put in order at every call.

    The operators are those that torch's own compiler packs frozen weights with (`torch._inductor`, `mkldnn_fusion`).
    For a few rows, as in a decode, a product takes three to four fifths of the time, of eight rows in float32 half;
    results are the same to rounding.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach().clone()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)

    def forward(self, states: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return output


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the linear layers of a model on a CPU in place, where torch can pack their dtype."""
    dtypes = _packable()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.is_cpu and module.weight.dtype in dtypes:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))


def _packable() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset({torch.float32, torch.bfloat16})
    return frozenset({torch.float32})
