"""Linear layers whose weights lie as oneDNN's kernels for the CPU read them."""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """What a linear layer computes, without its weight being put in order at every call.

    The operators are those that torch's own compiler packs frozen weights with (`torch._inductor`, `mkldnn_fusion`).
    For a few rows, as in a decode, a product takes three to four fifths of the time; results are the same.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)

    def forward(self, states: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return output


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the linear layers of a model in place, where they are in bfloat16 on a CPU and torch can pack them."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.is_cpu and module.weight.dtype is torch.bfloat16:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))
