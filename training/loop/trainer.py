"""The training loop of one stage: accumulate, clip, step, record, save, and stop when asked."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from tqdm import tqdm

from training.data.batches import Batches
from training.loop.feed import feed
from training.loop.optimisation import build_optimisers, set_learning_rates
from training.loop.processes import prepare, whole
from training.loop.records import Record, Records
from training.loop.snapshots import Snapshots
from training.loop.stopping import StopRequest
from training.objectives.objective import Objective
from training.recipes.recipe import Precision, Stage

logger = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 1.0


class Interrupted(Exception):
    """A signal asked the run to stop; its state before `step` is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped before step {step}; the same command goes on from there")


@dataclass(frozen=True)
class Rows:
    """Which rows of a step's batch a process reads, in micro-batches of equal size."""

    first: int
    micro_batch: int
    count: int

    @classmethod
    def of(cls, stage: Stage, accelerator: Accelerator) -> "Rows":
        """Raises:
        ValueError: the batch does not divide among processes and micro-batches.
        """
        own, micro_batch = stage.share_of(accelerator.num_processes)
        return cls(accelerator.process_index * own, micro_batch, own // micro_batch)

    def __iter__(self) -> Iterator[slice]:
        for index in range(self.count):
            start = self.first + index * self.micro_batch
            yield slice(start, start + self.micro_batch)


class Trainer:
    """One stage of a run. Its directory holds snapshots while it runs, and a line of figures for every step."""

    def __init__(
        self,
        accelerator: Accelerator,
        stage: Stage,
        objective: Objective,
        batches: Batches,
        *,
        directory: Path,
        save_minutes: float,
    ) -> None:
        self.accelerator, self.stage, self.objective, self.batches = accelerator, stage, objective, batches
        self.description = directory.name
        self.rows = Rows.of(stage, accelerator)
        self.snapshots = Snapshots(directory / "snapshots", accelerator)
        self.records = Records(directory / "steps.jsonl", directory / "tensorboard")
        self.save_seconds = 60 * save_minutes

    def train(self, model: nn.Module, stop: StopRequest) -> None:
        """Run the stage, from its newest snapshot where there is one.

        The model ends trained, in evaluation mode; where it is sharded it stays so, and the last snapshot has it.

        Raises:
            FloatingPointError: a loss that is not finite, with the batch named; the weights before it are saved.
            Interrupted: `stop` was asked for; everything is saved.
        """
        accelerator = self.accelerator
        model.train()
        torch.manual_seed(self.batches.seed + accelerator.process_index)  # dropout's
        precision: Precision = "bf16" if accelerator.mixed_precision == "bf16" else "no"
        prepared, optimisers = prepare(accelerator, model, build_optimisers(model, self.stage, precision))
        first = self.snapshots.restore(prepared, optimisers)
        saved = time.monotonic()
        steps = range(first, self.stage.steps)
        batches = feed(self.batches, self.objective, list(self.rows), steps, accelerator.device)
        with self.records.opened(first, is_main=accelerator.is_main_process), self._progress(first) as progress:
            for step in steps:
                started = time.monotonic()
                share = set_learning_rates(optimisers, step, self.stage)
                losses = self._backward(prepared, batches, step)
                wants_save = time.monotonic() - saved > self.save_seconds
                loss, segments, is_stopped, is_due = self._agree(losses, stop, wants_save)
                norm = float(whole(accelerator.clip_grad_norm_(prepared.parameters(), MAX_GRADIENT_NORM)))
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    if step:  # before the first, nothing is learned, and the optimisers have no state to save
                        self.snapshots.save(step, prepared, optimisers)
                    raise FloatingPointError(self._not_finite(step, loss, norm))
                for optimiser in optimisers:
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                rate = self.stage.batch_sequences * self.stage.sequence_tokens / (time.monotonic() - started)
                record = Record(step, loss, segments, share * self.stage.learning_rate, norm, rate)
                self.records.add(record)
                _show(progress, record)
                if is_stopped or is_due:
                    self.snapshots.save(step + 1, prepared, optimisers)
                    saved = time.monotonic()
                if is_stopped and step + 1 < self.stage.steps:
                    raise Interrupted(step + 1)
        self.snapshots.save(self.stage.steps, prepared, optimisers)
        accelerator.free_memory()  # it would keep this model and its optimisers through the next stage
        model.eval()

    def _backward(self, model: nn.Module, batches: Iterator[Any], step: int) -> Tensor:
        """Leave the gradients of a step; its loss by substep and segment, (substeps, segments), of this process."""
        losses = []
        num_substeps = self.objective.num_substeps
        for number in range(1, self.rows.count + 1):
            batch = next(batches).to(self.accelerator.device)
            substeps = self.objective.substeps(model, batch, step=step)
            for index in range(1, num_substeps + 1):
                is_last = number == self.rows.count and index == num_substeps
                with nullcontext() if is_last else self._unsynchronised(model):
                    substep = next(substeps)
                    self.accelerator.backward(substep.loss / self.rows.count)
                losses.append(torch.stack([substep.loss.detach(), *substep.segment_losses]))
        return torch.stack(losses).view(self.rows.count, num_substeps, -1).mean(dim=0)

    def _unsynchronised(self, model: nn.Module) -> AbstractContextManager[None]:
        """Gradients are exchanged once a step. Sharded ones always are: kept whole, they would not fit."""
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return nullcontext()
        context: AbstractContextManager[None] = self.accelerator.no_sync(model)
        return context

    def _agree(self, losses: Tensor, stop: StopRequest, wants_save: bool) -> tuple[float, list[float], bool, bool]:
        """Over all processes: the mean loss, each segment's, whether one is to stop, and the first's wish to save.

        Args:
            losses: (substeps, 1 + segments), each substep's own before its segments'.
        """
        wishes = [float(stop.is_made), float(wants_save and self.accelerator.is_main_process)]
        own = torch.cat([losses.new_tensor(wishes), losses.flatten()])
        summed = self.accelerator.reduce(own, reduction="sum")
        means = (summed[2:] / self.accelerator.num_processes).view_as(losses)
        return float(means[:, 0].mean()), means[:, 1:].flatten().tolist(), bool(summed[0]), bool(summed[1])

    def _not_finite(self, step: int, loss: float, norm: float) -> str:
        own = slice(self.rows.first, self.rows.first + self.rows.count * self.rows.micro_batch)
        names = "; ".join(self.batches.names(step, own))
        return f"{self.description}: step {step} has a loss of {loss} and a gradient norm of {norm}; its batch: {names}"

    def _progress(self, first: int) -> "tqdm[Any]":
        return tqdm(
            total=self.stage.steps,
            initial=first,
            desc=self.description,
            unit=" steps",
            mininterval=2.0,
            disable=not self.accelerator.is_main_process,
        )


def _show(progress: "tqdm[Any]", record: Record) -> None:
    segments = " ".join(f"{loss:.2f}" for loss in record.segment_losses)
    by_segment = f" by segment {segments}," if len(record.segment_losses) > 1 else ""
    progress.set_postfix_str(
        f"loss {record.loss:.3f},{by_segment} {record.tokens_per_second:,.0f} tokens/s", refresh=False
    )
    progress.update()
