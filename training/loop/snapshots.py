"""A run's state on disk: written aside, renamed when whole, the newest two kept."""

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from model.atomic import aside_of, written_aside

logger = logging.getLogger(__name__)

KEPT = 2
NAME = re.compile(r"step-(\d{8})")
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class Snapshots:
    """The snapshots of one stage: what trains, its optimisers, and each process's random state.

    Written by torch.distributed.checkpoint, so a sharded run is saved in shards and may go on with another number of
    processes; bit for bit only with the same number.
    """

    def __init__(self, directory: Path, accelerator: Accelerator) -> None:
        self.directory, self.accelerator = directory, accelerator

    def save(self, step: int, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        """Save the state before `step`, unless it is there. All processes call this together."""
        path = self.directory / f"step-{step:08d}"
        if path.is_dir():
            return
        is_main = self.accelerator.is_main_process
        with written_aside(path) if is_main else nullcontext(aside_of(path)) as aside:
            self.accelerator.wait_for_everyone()  # what an interrupted save left is gone
            with _quiet_alone():
                dcp.save(_state(model, optimisers), checkpoint_id=aside)
            torch.save(random_state(), aside / f"random-{self.accelerator.process_index}.pt")
            self.accelerator.wait_for_everyone()
        if is_main:
            for old in self.steps()[:-KEPT]:
                shutil.rmtree(self.directory / f"step-{old:08d}")
        self.accelerator.wait_for_everyone()

    def restore(self, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> int:
        """Load the newest snapshot into them; the step to go on with, 0 where there is none.

        What a save that was cut off left is removed.
        """
        if self.accelerator.is_main_process:
            for leftover in self.directory.glob("step-*.unfinished"):
                shutil.rmtree(leftover)
        steps = self.steps()
        if not steps:
            return 0
        path = self.directory / f"step-{steps[-1]:08d}"
        state = _state(model, optimisers)
        with _quiet_alone():
            dcp.load(state, checkpoint_id=path)
        set_model_state_dict(model, state["model"], options=TRAINED)
        set_optimizer_state_dict(model, optimisers, state["optimisers"], options=TRAINED)
        random_file = path / f"random-{self.accelerator.process_index}.pt"
        if random_file.is_file():
            set_random_state(torch.load(random_file, weights_only=True))
        logger.info("going on from step %d, saved in %s", steps[-1], path)
        return steps[-1]

    def load(self, model: nn.Module) -> None:
        """Load what trained from the newest snapshot into a model of this process alone, however it was sharded."""
        state = {"model": get_model_state_dict(model, options=TRAINED)}
        with _quiet_alone():
            dcp.load(state, checkpoint_id=self.directory / f"step-{self.steps()[-1]:08d}", no_dist=True)
        set_model_state_dict(model, state["model"], options=TRAINED)

    def steps(self) -> list[int]:
        """The steps that were saved whole, oldest first."""
        names = [NAME.fullmatch(path.name) for path in self.directory.glob("step-*")]
        return sorted(int(name[1]) for name in names if name)

    def clear(self) -> None:
        """Remove them all: the stage is finished."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process and self.directory.is_dir():
            shutil.rmtree(self.directory)


def _state(model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model, options=TRAINED),
        "optimisers": get_optimizer_state_dict(model, optimisers, options=TRAINED),
    }


@contextmanager
def _quiet_alone() -> Iterator[None]:
    """Without torch's warning that a process on its own saves and loads on its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def random_state() -> dict[str, Any]:
    """The random generators that a step may draw from: dropout's, of the CPU and of this process's device."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
