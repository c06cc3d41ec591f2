"""Small trainings: shared by the tests, and by the processes that some of them start.

`python -m tests.training.runs KIND DIRECTORY` does one of them, KIND being a function's name of `KINDS`.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model import AutoCompressor
from tests.tiny import (
    TEXT,
    cpu_accelerator,
    forget_accelerator,
    random_base,
    repetitive_documents,
    tiny_config,
    tiny_recipe,
    tiny_tokenizer,
)
from training.bases.adapters import Adapted
from training.data.batches import Batches, Part
from training.data.sources import Source
from training.loop.processes import make_accelerator, sharding
from training.loop.records import Record, read_records
from training.loop.snapshots import Snapshots
from training.loop.stopping import StopRequest
from training.loop.trainer import Interrupted, Trainer
from training.objectives.cross_entropy import LanguageModelling, Segments
from training.objectives.objective import Batch, Objective, Substep
from training.recipes.recipe import Lora, Recipe
from training.run.stages import Run

LORA = Lora(rank=4, alpha=8, dropout=0.05, modules=("q_proj", "v_proj"))
STOPPED_BEFORE = 4
INTERRUPTED_STATUS = 7
KILLED_SAVE = 3


def recipe_of(name: str) -> Recipe:
    """The tiny recipe, adapted in one of the ways that differ in what trains and how."""
    recipe = tiny_recipe()
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, batch_sequences=4, tokens=8 * 4 * 64))
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, micro_batch_sequences=1, matrix_learning_rate=None))
    match name:
        case "adamw":
            return recipe
        case "muon":
            return replace(recipe, adaptation=replace(recipe.adaptation, matrix_learning_rate=1e-2))
        case "lora":
            return replace(recipe, trained="lora", lora=LORA)
        case "lora without dropout":
            return replace(recipe, trained="lora", lora=replace(LORA, dropout=0.0))
        case "lora on bfloat16":
            base = replace(recipe.base, dtype="bfloat16")
            return replace(recipe_of("lora without dropout"), base=base, precision="bf16")
        case "bf16":
            return replace(recipe, precision="bf16")
        case "a segment a substep":
            one = replace(recipe.compression, substeps=4, segments_per_substep=1)
            return replace(recipe, compression=one)
        case "computed again":
            return replace(recipe, compression=replace(recipe.compression, segment_gradient_checkpointing=True))
        case "rmt" | "no-context" | "full-attention":
            return replace(recipe, compression=replace(recipe.compression, method=name))
        case _:
            raise ValueError(f"there is no variant {name!r}")


def model_of(recipe: Recipe, *, seed: int = 0) -> AutoCompressor:
    config = tiny_config("llama")
    config.tie_word_embeddings = True
    base = random_base(config, seed=seed).to(getattr(torch, recipe.base.dtype))
    return Adapted.of(base, recipe, tiny_tokenizer(), seed=seed).model


def objective_of(recipe: Recipe) -> Objective:
    if recipe.compression.method == "full-attention":
        return LanguageModelling(2)
    return Segments(recipe.compression, seed=0)


def trainer_of(
    recipe: Recipe,
    directory: Path,
    *,
    accelerator: Accelerator | None = None,
    objective: Objective | None = None,
    save_minutes: float = 10.0,
) -> Trainer:
    stage = recipe.adaptation
    documents = repetitive_documents(num_documents=3)
    batches = Batches(
        [Part([documents])],
        sequence_tokens=stage.sequence_tokens,
        batch_sequences=stage.batch_sequences,
        num_steps=stage.steps,
        seed=0,
    )
    return Trainer(
        accelerator or cpu_accelerator(recipe.precision),
        stage,
        objective or objective_of(recipe),
        batches,
        directory=directory,
        save_minutes=save_minutes,
    )


@dataclass
class StopsAt:
    """Asks for a stop during one step, as a signal would."""

    objective: Objective
    step: int
    stop: StopRequest

    @property
    def num_substeps(self) -> int:
        return self.objective.num_substeps

    def prepared(self, tokens: Tensor, *, step: int, first_row: int) -> Batch:
        return self.objective.prepared(tokens, step=step, first_row=first_row)

    def substeps(self, model: nn.Module, batch: Any, *, step: int) -> Iterator[Substep]:
        if step == self.step:
            self.stop.signal_number = signal.SIGTERM
        yield from self.objective.substeps(model, batch, step=step)


def train(
    recipe: Recipe, directory: Path, *, stop_before: int | None = None, accelerator: Accelerator | None = None
) -> AutoCompressor:
    """Train a new model, from the newest snapshot in the directory; asked to stop, expect that it does."""
    model, stop, objective = model_of(recipe), StopRequest(), objective_of(recipe)
    is_last = accelerator is None or accelerator.is_last_process  # one that is asked stops all
    if stop_before is not None and is_last:
        objective = StopsAt(objective, stop_before - 1, stop)
    trainer = trainer_of(recipe, directory, accelerator=accelerator, objective=objective)
    try:
        trainer.train(model, stop)
    except Interrupted as interrupted:
        if not str(interrupted).startswith(f"stopped before step {stop_before};"):
            raise
        trainer.accelerator.free_memory()
    else:
        assert stop_before is None, "it went on"
    return model


def run_of(directory: Path, accelerator: Accelerator, recipe: Recipe | None = None) -> Run:
    """A run on one document, `text.jsonl`, which is written where there is none."""
    text = directory / "text.jsonl"
    if accelerator.is_main_process and not text.is_file():
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(json.dumps({"text": TEXT * 10}) + "\n")
    accelerator.wait_for_everyone()
    return Run(
        directory / "run",
        recipe or tiny_recipe(),
        [Source(str(text))],
        seed=0,
        cache=directory / "cache",
        accelerator=accelerator,
    )


def records_of(directory: Path) -> list[Record]:
    return read_records(directory / "steps.jsonl")


# --- several processes

VARIANTS = (
    "adamw",
    "muon",
    "lora without dropout",
    "lora on bfloat16",
    "a segment a substep",
    "rmt",
    "no-context",
    "full-attention",
    "computed again",
    "bf16",
)


def accelerator_of(recipe: Recipe, *, is_sharded: bool) -> Accelerator:
    """accelerate shards on GPUs alone: on the CPU it is told that it does, and all else is the same."""
    forget_accelerator()
    accelerator = make_accelerator(precision=recipe.precision, is_sharded=False)
    if is_sharded:
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = sharding(recipe.precision)
    return accelerator


def train_all(directory: Path, *, is_sharded: bool) -> None:
    """Each variant, and one of them interrupted and gone on with."""
    for name in VARIANTS:
        recipe = recipe_of(name)
        accelerator = accelerator_of(recipe, is_sharded=is_sharded)
        require_layers(train(recipe, directory / name, accelerator=accelerator), is_sharded=is_sharded)
        write_weights(recipe, directory / name, accelerator)
    recipe, resumed = recipe_of("adamw"), directory / "resumed"
    accelerator = accelerator_of(recipe, is_sharded=is_sharded)
    train(recipe, resumed, stop_before=STOPPED_BEFORE, accelerator=accelerator)
    train(recipe, resumed, accelerator=accelerator)
    write_weights(recipe, resumed, accelerator)
    train(recipe, directory / "interrupted", stop_before=STOPPED_BEFORE, accelerator=accelerator)
    run_of(directory / "run", accelerator).train(StopRequest())
    torch.distributed.destroy_process_group()


def require_layers(model: AutoCompressor, *, is_sharded: bool) -> None:
    """That every layer is sharded by itself, or none."""
    classes = [type(module).__name__ for module in model.modules()]
    is_cut = [isinstance(parameter, DTensor) for parameter in model.parameters()]
    if classes.count("FSDPLlamaDecoderLayer") != 2 * is_sharded or is_cut != [is_sharded] * len(is_cut):
        raise RuntimeError(f"sharded: {is_cut}, of {classes}")


def write_weights(recipe: Recipe, directory: Path, accelerator: Accelerator) -> None:
    """As a run exports them: from the last snapshot, into a model of the first process alone."""
    if accelerator.is_main_process:
        model = model_of(recipe)
        Snapshots(directory / "snapshots", accelerator).load(model)
        torch.save(model.state_dict(), directory / "weights.pt")
    accelerator.wait_for_everyone()


def replicated(directory: Path) -> None:
    train_all(directory, is_sharded=False)


def sharded(directory: Path) -> None:
    train_all(directory, is_sharded=True)


# --- processes that are ended


def killed(directory: Path) -> None:
    """`kill -9` in the middle of the third save."""
    save, num_saves = dcp.save, 0

    def save_half(state: Any, *, checkpoint_id: Path) -> None:
        nonlocal num_saves
        num_saves += 1
        if num_saves < KILLED_SAVE:
            save(state, checkpoint_id=checkpoint_id)
            return
        checkpoint_id.mkdir()
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    dcp.save = save_half
    recipe = recipe_of("adamw")
    trainer_of(recipe, directory, save_minutes=0).train(model_of(recipe), StopRequest())


def endless(directory: Path) -> None:
    """A run that a signal is to end."""
    recipe, stop = tiny_recipe(), StopRequest()
    assert recipe.pretraining is not None
    recipe = replace(recipe, pretraining=replace(recipe.pretraining, tokens=10**9))
    run = run_of(directory, cpu_accelerator(), recipe)
    try:
        with stop.heeded():
            run.train(stop)
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(INTERRUPTED_STATUS)


KINDS = {kind.__name__: kind for kind in (replicated, sharded, killed, endless)}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
