"""Linear layers that compute with the base's weights for some rows of a batch and with the adapter's for others."""

import torch
from torch import Tensor, nn

from model.adapter import Adapter


class Roles:
    """Which rows of the packed batch read vectors, and so have the adapter on; set once a batch, for all layers."""

    def __init__(self) -> None:
        self.is_adapted = False
        self.adapted_rows: Tensor | None = None
        self.plain_rows: Tensor | None = None

    def begin(self, lengths: list[int], *, is_reading: list[bool], device: torch.device) -> None:
        """Of a batch of runs of so many rows, those that read vectors."""
        self.is_adapted = all(is_reading)
        self.adapted_rows = self.plain_rows = None
        if any(is_reading) and not self.is_adapted:
            reads = torch.tensor(is_reading, device=device).repeat_interleave(torch.tensor(lengths, device=device))
            self.adapted_rows, self.plain_rows = reads.nonzero()[:, 0], (~reads).nonzero()[:, 0]


class RoledLinear(nn.Module):
    """Both weights of one layer, merged beforehand: a row costs one product, whichever it needs.

    The price is a second copy of the adapted weights.
    """

    def __init__(self, plain: nn.Linear, adapted: nn.Linear, roles: Roles) -> None:
        super().__init__()
        self.plain, self.adapted = plain, adapted
        self._roles = roles

    def forward(self, states: Tensor) -> Tensor:
        """(..., T, in) to (..., T, out)."""
        roles = self._roles
        if roles.adapted_rows is None or roles.plain_rows is None:
            uniform: Tensor = (self.adapted if roles.is_adapted else self.plain)(states)
            return uniform
        plain: Tensor = self.plain(states.index_select(-2, roles.plain_rows))
        output = plain.new_empty(*states.shape[:-1], plain.shape[-1])
        output.index_copy_(-2, roles.plain_rows, plain)
        output.index_copy_(-2, roles.adapted_rows, self.adapted(states.index_select(-2, roles.adapted_rows)))
        return output


def give_roles(base: nn.Module, adapter: Adapter, roles: Roles) -> None:
    """Replace the adapted layers of a base by ones that follow `roles`."""
    for name, layer in adapter.layers.items():
        parent, _, child = name.rpartition(".")
        setattr(
            base.get_submodule(parent), child, RoledLinear(layer.linear, merged(layer.linear, layer.merged()), roles)
        )


def merged(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    """A linear layer like this one with another weight."""
    other = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    other.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        other.bias = linear.bias
    return other
