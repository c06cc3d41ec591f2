"""What a recipe costs on a device: FLOPs, time and peak memory, before anything is downloaded or trained."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from model import AutoCompressor
from training.bases.adapters import Adapted
from training.planning.devices import GIB, USABLE_SHARE, Device, usable_bytes
from training.planning.flops import Flops, step_flops
from training.planning.memory import Memory, peak_memory
from training.planning.passes import stage_of
from training.recipes.recipe import Recipe, Stage

UTILISATION = 0.40  # of the data sheet's FLOP/s; what well-tuned transformer training reaches lies around it


@dataclass(frozen=True)
class StagePlan:
    """The cost of one stage; `flops` of a step, `seconds` of all steps, `memory` of one device."""

    name: str
    stage: Stage
    parameters: int
    trained_parameters: int
    flops: Flops
    seconds: float
    memory: Memory

    @property
    def tokens(self) -> int:
        return self.stage.steps * self.stage.batch_sequences * self.stage.sequence_tokens

    @property
    def total_flops(self) -> int:
        return self.stage.steps * self.flops.total


@dataclass(frozen=True)
class Plan:
    """The cost of a recipe. `remedies` are changes that would make it fit, each alone; none where it fits."""

    recipe: Recipe
    device: Device
    num_devices: int
    is_sharded: bool
    stages: tuple[StagePlan, ...]
    remedies: tuple[str, ...]

    @property
    def does_fit(self) -> bool:
        return all(stage.memory.total <= usable_bytes(self.device) for stage in self.stages)


def plan(recipe: Recipe, device: Device, *, num_devices: int = 1, is_sharded: bool = False) -> Plan:
    """What each stage costs; the models are built without weights.

    Raises:
        ValueError: the recipe cannot run: a batch does not divide among the devices, a sequence not into segments, or a
            segment with its soft prompt does not fit the model's positions.
    """
    models = stage_models(recipe)
    stages = tuple(
        _stage_plan(name, model, recipe, device, num_devices=num_devices, is_sharded=is_sharded)
        for name, model in models.items()
    )
    planned = Plan(recipe, device, num_devices, is_sharded, stages, ())
    return planned if planned.does_fit else replace(planned, remedies=tuple(_remedies(planned, models)))


def stage_models(recipe: Recipe) -> dict[str, AutoCompressor]:
    """What each stage trains, by the stage's name, in its order, on the meta device."""
    models = {}
    if recipe.pretraining is not None:
        models["pretraining"] = AutoCompressor.from_base(_empty_base(recipe.base.config(), torch.float32), 0)
    base = _empty_base(recipe.base.adapted_config(), getattr(torch, recipe.base.dtype))
    models["adaptation"] = Adapted.of(base, recipe, None, seed=0).model
    return models


def _empty_base(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        base: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return base


def _stage_plan(
    name: str, model: AutoCompressor, recipe: Recipe, device: Device, *, num_devices: int, is_sharded: bool
) -> StagePlan:
    stage = stage_of(recipe, name)
    flops = step_flops(model, recipe, name)
    return StagePlan(
        name,
        stage,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        flops=flops,
        seconds=stage.steps * flops.total / (UTILISATION * device.matmul_flops_per_second * num_devices),
        memory=peak_memory(model, recipe, name, num_devices=num_devices, is_sharded=is_sharded),
    )


def _remedies(planned: Plan, models: dict[str, AutoCompressor]) -> Iterator[str]:
    """Changes that make it fit, each alone and as small as does; where none does alone, all at once."""
    recipe = planned.recipe
    checkpointed = replace(recipe, compression=replace(recipe.compression, segment_gradient_checkpointing=True))
    batch, micro_batch = recipe.adaptation.batch_sequences, recipe.adaptation.micro_batch_sequences
    shards = [number for number in range(max(2, planned.num_devices), batch + 1) if batch % number == 0]
    sizes = [size for size in range(micro_batch - 1, 0, -1) if micro_batch % size == 0]

    def does_fit(changed: Recipe, num_devices: int, is_sharded: bool) -> bool:
        try:
            memory = [
                peak_memory(model, changed, name, num_devices=num_devices, is_sharded=is_sharded).total
                for name, model in models.items()
            ]
        except ValueError:  # the batch does not divide
            return False
        return max(memory) <= usable_bytes(planned.device)

    def first(change: str, options: list[tuple[int, Recipe, int, bool]]) -> list[str]:
        fitting = (value for value, changed, number, is_sharded in options if does_fit(changed, number, is_sharded))
        return [change.format(value) for value in fitting][:1]

    now = planned.num_devices, planned.is_sharded
    alone = [
        *first("--recompute-segments", [(1, checkpointed, *now)]),
        *first("--micro-batch {}", [(size, _with_micro_batch(recipe, size), *now) for size in sizes]),
        *first("--shard over {} devices", [(number, recipe, number, True) for number in shards]),
    ]
    together = "--recompute-segments --micro-batch 1 --shard over {} devices, together"
    least = _with_micro_batch(checkpointed, 1)
    yield from alone or first(together, [(number, least, number, True) for number in shards])


def _with_micro_batch(recipe: Recipe, size: int) -> Recipe:
    def changed(stage: Stage) -> Stage:
        return replace(stage, micro_batch_sequences=math.gcd(stage.micro_batch_sequences, size))

    pretraining = None if recipe.pretraining is None else changed(recipe.pretraining)
    return replace(recipe, adaptation=changed(recipe.adaptation), pretraining=pretraining)


def as_text(planned: Plan) -> str:
    """For people: a block for each stage, then whether it fits the device, and what would make it fit."""
    device, number = planned.device, planned.num_devices
    several = f"{number} devices, {'sharded' if planned.is_sharded else 'each with all weights'}"
    title = f"{planned.recipe.name} on {device.name}" + (f", {several}" if number > 1 else "")
    return "\n\n".join([title, *(_block(stage, planned) for stage in planned.stages), _verdict(planned)])


def _block(stage: StagePlan, planned: Plan) -> str:
    memory = stage.memory
    peak = planned.device.matmul_flops_per_second / 1e12
    steps = f"{stage.stage.steps:,} steps of {stage.stage.batch_sequences} sequences of {stage.stage.sequence_tokens:,}"
    rows = [
        ("parameters", f"{_count(stage.parameters)}, of which {_count(stage.trained_parameters)} train"),
        ("tokens", f"{_count(stage.tokens)} tokens in {steps}"),
        ("compute", _operations(stage.total_flops, stage)),
        *(
            (f"  {field.name}", _operations(stage.stage.steps * getattr(stage.flops, field.name), stage))
            for field in fields(stage.flops)
            if getattr(stage.flops, field.name)
        ),
        ("expected time", f"{_time(stage.seconds)} at {UTILISATION:.0%} of {peak:,.2f} TFLOP/s a device"),
        ("peak memory", f"{_gib(memory.total)} a device"),
        *((f"  {field.name}", _gib(getattr(memory, field.name))) for field in fields(memory)),
    ]
    return "\n".join([stage.name, *(f"  {label:<16}{value}" for label, value in rows)])


def _verdict(planned: Plan) -> str:
    usable, name = _gib(usable_bytes(planned.device)).strip(), planned.device.name
    most = max(planned.stages, key=lambda stage: stage.memory.total)
    needed = f"{most.name} needs {_gib(most.memory.total).strip()}, and {usable} ({USABLE_SHARE:.0%}) can be used"
    if planned.does_fit:
        return f"It fits {name}: {needed}."
    remedies = (
        f"what would make it fit: {'; or '.join(planned.remedies)}" if planned.remedies else "no change is enough"
    )
    return f"It does not fit {name}: {needed}; {remedies}."


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def _count(number: int) -> str:
    return f"{number / 1e9:,.3f} B" if number >= 1e9 else f"{number / 1e6:,.3f} M"


def _operations(flops: int, stage: StagePlan) -> str:
    is_large = stage.total_flops >= 1e18
    return f"{flops / (1e18 if is_large else 1e15):>10,.2f} {'EFLOP' if is_large else 'PFLOP'}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:>10,.2f} GiB"
