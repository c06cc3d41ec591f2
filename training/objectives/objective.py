"""What a batch is trained on: slices whose losses are back-propagated one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Substep:
    """One slice's loss, a scalar to call `backward` on, and the mean loss of each of its segments, detached."""

    loss: Tensor
    segment_losses: Tensor  # (segments,)


class Batch(Protocol):
    """What a model is trained on in one go: a tensor, or several."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...


class Objective(Protocol):
    """Cuts a batch into `num_substeps` slices. Each is to be back-propagated before the next is asked for."""

    num_substeps: int

    def prepared(self, tokens: Tensor, *, step: int, first_row: int) -> Batch:
        """What `substeps` takes, of sequences (B, L) on the CPU; a process of its own may do it, steps ahead.

        Args:
            first_row: the number of the first one in the step's batch, of which these may be a part.
        """
        ...

    def substeps(self, model: nn.Module, batch: Any, *, step: int) -> Iterator[Substep]:
        """The substeps of a batch; what is drawn at random depends on the step, and a row's number, alone."""
        ...
