"""Products with the base's weights for some rows of a batch and with the adapter's for others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from server.engine.torch.packed_linear import PackedLayers, PackedLinear, rounded_up
from server.engine.torch.roles import RoledLinear, Roles, SideLinear


@dataclass(frozen=True)
class Layout:
    """Where a batch's rows lie from product to product: plain ones first, then those that read vectors; each part is
    filled up with zeros to a number of rows that `rounded_up` gives.

    Attributes:
        num_positions: of the batch. num_plain, num_adapted: rows of the two parts.
        places: where each of the batch's rows lies, (T,); None where it lies at its own number.
    """

    num_positions: int
    num_plain: int
    num_adapted: int
    places: Tensor | None = None

    @classmethod
    def of(cls, roles: Roles, num_positions: int) -> "Layout":
        if roles.plain_rows is None or roles.adapted_rows is None:
            num_rows = rounded_up(num_positions)
            return cls(num_positions, 0, num_rows) if roles.is_adapted else cls(num_positions, num_rows, 0)
        num_plain, num_adapted = (rounded_up(len(rows)) for rows in (roles.plain_rows, roles.adapted_rows))
        places = torch.empty(num_positions, dtype=torch.long)
        places[roles.plain_rows] = torch.arange(len(roles.plain_rows))
        places[roles.adapted_rows] = torch.arange(num_plain, num_plain + len(roles.adapted_rows))
        return cls(num_positions, num_plain, num_adapted, places)

    @property
    def num_rows(self) -> int:
        return self.num_plain + self.num_adapted

    def spread(self, batch: Tensor) -> Tensor:
        """(T, D) to (N, D)."""
        if self.places is None and self.num_rows == self.num_positions:
            return batch
        rows = batch.new_zeros(self.num_rows, batch.shape[1])
        if self.places is None:
            rows[: self.num_positions] = batch
            return rows
        return rows.index_copy_(0, self.places, batch)

    def gathered(self, rows: Tensor) -> Tensor:
        """(N, D) to (T, D)."""
        return rows[: self.num_positions] if self.places is None else rows.index_select(0, self.places)


class Product:
    """Linear layers of the same states as one, and what follows them, in one pass where the weights are whole.

    Attributes:
        parts: the modules with its weights.
    """

    def __init__(self, modules: Sequence[nn.Module], layers: PackedLayers) -> None:
        """Of layers that `give_roles` may have replaced."""
        self._plain = layers.packed(*(_plain(module) for module in modules))
        self._adapted = self._plain
        if any(isinstance(module, RoledLinear) for module in modules):
            self._adapted = layers.packed(*(_adapted(module) for module in modules))
        self._sides = _sides(modules, layers)
        self.parts = [self._plain, self._adapted, *(part for side in self._sides for part in side[2:])]

    def __call__(
        self,
        rows: Tensor,
        layout: Layout,
        *,
        activation: Literal["none", "swish"] = "none",
        times: Tensor | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """(N, in) to (N, out): activated, or times or plus another (N, out)."""
        if self._sides and layout.num_adapted:
            return _followed(self._beside(rows, layout), activation, times, plus)
        operation: Literal["add", "mul"] = "mul" if plus is None else "add"
        other = times if plus is None else plus
        if not layout.num_adapted or not layout.num_plain or self._adapted is self._plain:
            packed = self._adapted if layout.num_adapted else self._plain
            return packed.product(rows, activation) if other is None else packed.product_with(rows, other, operation)
        sizes = layout.num_plain, layout.num_adapted
        both = zip((self._plain, self._adapted), rows.split(sizes), strict=True)
        if other is None:
            return torch.cat([packed.product(own, activation) for packed, own in both])
        others = other.split(sizes)
        return torch.cat(
            [packed.product_with(own, each, operation) for (packed, own), each in zip(both, others, strict=True)]
        )

    def _beside(self, rows: Tensor, layout: Layout) -> Tensor:
        output = self._plain.product(rows)
        own = rows[layout.num_plain :]
        for start, end, down, up in self._sides:
            output[layout.num_plain :, start:end] += up.product(down.product(own))
        return output


def _followed(output: Tensor, activation: str, times: Tensor | None, plus: Tensor | None) -> Tensor:
    if activation == "swish":
        return torch.nn.functional.silu(output, inplace=True)
    if times is not None:
        return output.mul_(times)
    return output if plus is None else output.add_(plus)


def _plain(module: nn.Module) -> nn.Linear:
    linear = module.plain if isinstance(module, RoledLinear | SideLinear) else module
    assert type(linear) is nn.Linear
    return linear


def _adapted(module: nn.Module) -> nn.Linear:
    return module.adapted if isinstance(module, RoledLinear) else _plain(module)


def _sides(modules: Sequence[nn.Module], layers: PackedLayers) -> list[tuple[int, int, PackedLinear, PackedLinear]]:
    """Of layers with an adapter beside them: the columns that they have, and its two products."""
    sides, end = [], 0
    for module in modules:
        start, end = end, end + _plain(module).out_features
        if isinstance(module, SideLinear):
            sides.append((start, end, layers.packed(module.down), layers.packed(module.up)))
    return sides
