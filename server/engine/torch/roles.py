"""Linear layers that compute with the base's weights for some rows of a batch and with the adapter's for others."""

import torch
from torch import Tensor, nn

from model.adapter import AdaptedLinear, Adapter


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

    The price is a second copy of the adapted weights, which `SideLinear` does without.
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


class SideLinear(nn.Module):
    """The layer, and for the rows that read vectors the adapter's low-rank product beside it.

    It takes the adapter's own few weights, and two small products more for each layer.
    """

    def __init__(self, adapted: AdaptedLinear, roles: Roles) -> None:
        super().__init__()
        dtype = adapted.weight.dtype
        self.plain = adapted.linear
        self.down = _linear(adapted.lora_a.to(dtype))
        self.up = _linear((adapted.lora_b * adapted.scale).to(dtype))
        self._roles = roles

    def forward(self, states: Tensor) -> Tensor:
        """(..., T, in) to (..., T, out)."""
        roles = self._roles
        output: Tensor = self.plain(states)
        if roles.adapted_rows is not None:
            beside = self.up(self.down(states.index_select(-2, roles.adapted_rows)))
            return output.index_add_(-2, roles.adapted_rows, beside)
        return output.add_(self.up(self.down(states))) if roles.is_adapted else output


def give_roles(base: nn.Module, adapter: Adapter, roles: Roles, *, merges: bool) -> None:
    """Replace the adapted layers of a base by ones that follow `roles`.

    Args:
        merges: keep the weights with the adapter in them, rather than the adapter beside them.
    """
    for name, layer in adapter.layers.items():
        parent, _, child = name.rpartition(".")
        if merges:
            replaced: nn.Module = RoledLinear(layer.linear, merged(layer.linear, layer.merged()), roles)
        else:
            replaced = SideLinear(layer, roles)
        setattr(base.get_submodule(parent), child, replaced)


def _linear(weight: Tensor) -> nn.Linear:
    """A layer of this weight, (out, in), alone."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def merged(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    """A linear layer like this one with another weight."""
    other = _linear(weight)
    other.bias = linear.bias
    return other
