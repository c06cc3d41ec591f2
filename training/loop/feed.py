"""Micro-batches made ready before the step that reads them: by processes of their own where a device would wait."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from training.data.batches import Batches
from training.objectives.objective import Objective

MAX_WORKERS = 12


class _MicroBatches(Dataset[Any]):
    """By number, the micro-batches of the steps from one on."""

    def __init__(self, batches: Batches, objective: Objective, rows: list[slice], steps: range) -> None:
        self._batches, self._objective, self._rows, self._steps = batches, objective, rows, steps

    def __len__(self) -> int:
        return len(self._steps) * len(self._rows)

    def __getitem__(self, number: int) -> Any:
        ordinal, place = divmod(number, len(self._rows))
        step, rows = self._steps[ordinal], self._rows[place]
        return self._objective.prepared(self._batches.batch(step, rows), step=step, first_row=rows.start)


def _outlive_signals(worker: int) -> None:  # noqa: ARG001
    """A signal to stop is for the run, which ends its step before its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def feed(
    batches: Batches, objective: Objective, rows: list[slice], steps: range, device: torch.device
) -> Iterator[Any]:
    """What the objective prepares of each micro-batch, in order, on the CPU. Of torch's random state nothing is used.

    Args:
        rows: of a step's batch, one slice for each micro-batch.
        device: what is going to read them. Where that is the CPU, no other process takes time from it.
    """
    num_workers = 0 if device.type == "cpu" else min(MAX_WORKERS, max(1, (os.cpu_count() or 1) - 2))
    loader = DataLoader(
        _MicroBatches(batches, objective, rows, steps),
        batch_size=None,
        num_workers=num_workers,
        # whatever Python's own way is: mapped files and drawn orders are not sent, and no worker uses the device
        multiprocessing_context="fork" if num_workers else None,
        generator=torch.Generator(),
        worker_init_fn=_outlive_signals,
    )
    return iter(loader)
