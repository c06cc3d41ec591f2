"""`autocompressor serve` whose forward passes fail now and then: `python -m tests.chaos.failing ONE_IN serve …`.

In the server there is no way to ask for this; here the engine's runner is replaced before it is built. SIGUSR1 has the
next forward pass end as on a device that is lost, for good.
"""

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch

import server.engine.torch.build
from server.cli.main import main
from server.engine.torch.packed import PackedModel
from server.engine.torch.requests import Piece
from server.engine.torch.runner import Runner

logger = logging.getLogger("chaos")
INJECTED = "chaos injects"  # what a line of the log begins with


def _defect() -> None:
    raise RuntimeError("injected: a kernel failed")


def _no_device_memory() -> None:
    raise torch.OutOfMemoryError("injected: CUDA out of memory")


def _no_memory() -> None:
    """Asks the system for what it does not have: torch's own allocator fails."""
    torch.empty(2**60, dtype=torch.uint8)


def _no_python_memory() -> None:
    raise MemoryError("injected")


FAILURES: tuple[tuple[str, Callable[[], None]], ...] = (
    ("a defect", _defect),
    ("no memory on the device", _no_device_memory),
    ("no memory", _no_memory),
    ("no memory for Python", _no_python_memory),
)


class FailingRunner(Runner):
    """Fails one pass in so many: before it, before its last layer, or after it, in turns."""

    one_in = 20
    is_lost = False

    def __init__(self, packed: PackedModel, *, rounds_vectors: bool = False) -> None:
        super().__init__(packed, rounds_vectors=rounds_vectors)
        self._num_passes = 0
        self._ways = cycle(
            (place, *failure) for place in ("before", "within", "after", "with values of") for failure in FAILURES
        )
        self._within: Callable[[], None] | None = None
        layers = packed.model.base.base_model.layers
        layers[-1].register_forward_pre_hook(self._fail_within)
        self._is_spoiled = False
        layers[-1].register_forward_hook(self._spoil)

    def run(self, pieces: Sequence[Piece]) -> list[Any]:
        if type(self).is_lost:
            raise torch.AcceleratorError("injected: the device is lost")
        self._num_passes += 1
        if self._num_passes % self.one_in:
            return super().run(pieces)
        place, name, fail = next(self._ways)
        logger.warning("%s %s %s a pass of %d pieces", INJECTED, name, place, len(pieces))
        if place == "before":
            fail()
        self._within = fail if place == "within" else None
        self._is_spoiled = place == "with values of"
        try:
            results = super().run(pieces)
        finally:
            self._within, self._is_spoiled = None, False
        if place == "after":
            fail()
        return results

    def _fail_within(self, *_: object) -> None:
        if self._within is not None:
            self._within()

    def _spoil(self, _layer: object, _given: object, output: Any) -> Any:
        """Values that are no numbers, as of an overflow."""
        if not self._is_spoiled:
            return output
        return (output[0] * torch.nan, *output[1:]) if isinstance(output, tuple) else output * torch.nan


def _lose(*_: object) -> None:
    FailingRunner.is_lost = True


if __name__ == "__main__":
    FailingRunner.one_in = int(sys.argv.pop(1))
    server.engine.torch.build.Runner = FailingRunner  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, _lose)
    main()
