"""The loop learns, accumulates, stops at what is not finite, and an interrupted run is the unbroken one."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from model import AutoCompressor
from tests.tiny import cpu_accelerator, repetitive_documents, tiny_compressor, tiny_recipe
from tests.training.runs import model_of, objective_of, recipe_of, records_of, train, trainer_of
from training.data.batches import Batches, Part
from training.loop.snapshots import Snapshots
from training.loop.stopping import StopRequest
from training.loop.trainer import Rows
from training.objectives.cross_entropy import LanguageModelling
from training.objectives.objective import Batch, Objective, Substep
from training.recipes.recipe import Recipe, Stage


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def state_of(directory: Path, into: Path) -> dict[str, Any]:
    """The newest snapshot: weights, optimiser states and random state."""
    snapshots = directory / "snapshots"
    newest = snapshots / f"step-{Snapshots(snapshots, cpu_accelerator()).steps()[-1]:08d}"
    dcp_to_torch_save(newest, into)
    state = torch.load(into, weights_only=False)
    return {**state, "random": torch.load(newest / "random-0.pt", weights_only=True)}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit for bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def without_times(directory: Path) -> list[Any]:
    return [replace(record, tokens_per_second=0.0) for record in records_of(directory)]


# --- learning


@torch.no_grad()
def loss_of(model: AutoCompressor, **options: Any) -> float:
    batch = torch.from_numpy(repetitive_documents().run(0, 64))[None]
    return float(model(batch, labels=batch, **options).loss)


@pytest.mark.parametrize("matrix_learning_rate", [None, 2e-2], ids=["adamw", "muon"])
def test_language_modelling_learns(matrix_learning_rate: float | None, tmp_path: Path) -> None:
    stage = tiny_recipe().pretraining
    assert stage is not None
    stage = replace(stage, matrix_learning_rate=matrix_learning_rate)
    recipe = replace(tiny_recipe(), adaptation=stage)
    model = tiny_compressor(summary_length=0)
    model.embed_summary.requires_grad_(False)
    assert loss_of(model) > 5  # ln 320 is 5.8
    trainer_of(recipe, tmp_path, objective=LanguageModelling()).train(model, StopRequest())
    assert loss_of(model) < 2
    assert not model.training


def test_adaptation_learns(tmp_path: Path) -> None:
    recipe = recipe_of("adamw")
    model = model_of(recipe)
    start = copy.deepcopy(model)
    trainer_of(recipe, tmp_path).train(model, StopRequest())
    assert loss_of(model, segment_lengths=16) < loss_of(start, segment_lengths=16) - 0.5
    moved = (model.embed_summary.weight - start.embed_summary.weight).norm(dim=1)
    assert moved.min() > 1e-3
    assert not torch.equal(model.embed_summary.weight[0], model.embed_summary.weight[1])


def test_every_step_is_recorded(tmp_path: Path) -> None:
    recipe = recipe_of("adamw")
    train(recipe, tmp_path)
    records = records_of(tmp_path)
    assert [record.step for record in records] == list(range(8))
    assert {len(record.segment_losses) for record in records} == {4}
    for record in records:
        assert record.loss == pytest.approx(sum(record.segment_losses) / 4, rel=0.1)
        assert record.gradient_norm > 0
        assert record.tokens_per_second > 0
    assert [record.learning_rate for record in records[:2]] == pytest.approx([1e-2, 1e-2])
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"loss by segment/03" in events.read_bytes()


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    recipe = recipe_of("adamw")
    weights = []
    for micro_batch in (1, 2, 4):
        stage = replace(recipe.adaptation, micro_batch_sequences=micro_batch)
        directory = tmp_path / str(micro_batch)
        weights.append(train(replace(recipe, adaptation=stage), directory).state_dict())
    records = [records_of(tmp_path / name) for name in "124"]
    for name, expected in weights[-1].items():
        for other in weights[:-1]:
            torch.testing.assert_close(other[name], expected, rtol=0, atol=1e-3)  # AdamW's steps are of 1e-2
    for one, two, four in zip(*records, strict=True):
        assert one.loss == pytest.approx(four.loss, rel=1e-4)
        assert one.segment_losses == pytest.approx(four.segment_losses, rel=1e-3)
        assert two.gradient_norm == pytest.approx(four.gradient_norm, rel=1e-3)


def test_a_process_reads_its_own_rows() -> None:
    stage = replace(tiny_recipe().adaptation, batch_sequences=12, micro_batch_sequences=2)

    @dataclass
    class Processes:
        num_processes: int
        process_index: int

    assert list(Rows.of(stage, Processes(3, 1))) == [slice(4, 6), slice(6, 8)]
    assert list(Rows.of(stage, Processes(12, 11))) == [slice(11, 12)]
    for processes in (5, 24):
        with pytest.raises(ValueError, match=f"12 sequences does not divide among {processes} processes"):
            Rows.of(stage, Processes(processes, 0))


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    recipe = recipe_of("adamw")
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, micro_batch_sequences=3))
    with pytest.raises(ValueError, match=r"a batch of 4 .* 1 processes in micro-batches of 3"):
        trainer_of(recipe, tmp_path)


# --- what is not finite


@dataclass
class Spoiled:
    """At one step the loss is not a number, or it is one and has gradients that are not."""

    objective: Objective
    step: int
    has_finite_loss: bool

    @property
    def num_substeps(self) -> int:
        return self.objective.num_substeps

    def prepared(self, tokens: Tensor, *, step: int, first_row: int) -> Batch:
        return self.objective.prepared(tokens, step=step, first_row=first_row)

    def substeps(self, model: nn.Module, batch: Any, *, step: int) -> Iterator[Substep]:
        for substep in self.objective.substeps(model, batch, step=step):
            if step != self.step:
                yield substep
            elif self.has_finite_loss:
                zero = torch.sqrt(0 * next(model.parameters()).sum())
                yield Substep(substep.loss + zero, substep.segment_losses)
            else:
                yield Substep(substep.loss * math.nan, substep.segment_losses)


@pytest.mark.parametrize("has_finite_loss", [False, True], ids=["loss", "gradients"])
def test_what_is_not_finite_stops_the_run(has_finite_loss: bool, tmp_path: Path) -> None:
    """The weights before it are saved, and a run without the fault goes on from them."""
    recipe = recipe_of("adamw")
    broken, unbroken = tmp_path / "adaptation", tmp_path / "unbroken"
    objective = Spoiled(objective_of(recipe), 3, has_finite_loss)
    figures = r"a loss of \d\.\d+ and" if has_finite_loss else "a loss of nan and"
    torch.manual_seed(5)
    with pytest.raises(FloatingPointError, match=f"adaptation: step 3 has {figures} a gradient norm of nan") as caught:
        trainer_of(recipe, broken, objective=objective).train(model_of(recipe), StopRequest())
    trainer = trainer_of(recipe, broken)
    assert str(caught.value).endswith("its batch: " + "; ".join(trainer.batches.names(3)))
    assert str(caught.value).count("repetitive.jsonl document") == 4
    assert trainer.snapshots.steps() == [3]
    torch.manual_seed(5)
    train(recipe, unbroken, stop_before=3)
    saved = [state_of(directory, tmp_path / "state.pt") for directory in (broken, unbroken)]
    for state in saved:
        del state["optimisers"]["param_groups"]  # the learning rate is set anew for each step
    assert_same(saved[0], saved[1])
    train(recipe, broken)
    train(recipe, unbroken)
    assert without_times(broken) == without_times(unbroken)


def test_a_first_step_that_is_not_finite_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    """A snapshot before it had no optimiser states in it, and could not be read."""
    recipe = recipe_of("adamw")
    objective = Spoiled(objective_of(recipe), 0, has_finite_loss=False)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer_of(recipe, tmp_path, objective=objective).train(model_of(recipe), StopRequest())
    train(recipe, tmp_path)
    assert len(records_of(tmp_path)) == 8


# --- interruption


@pytest.mark.parametrize("variant", ["adamw", "muon", "lora", "bf16"])
def test_an_interrupted_run_is_the_unbroken_one(variant: str, tmp_path: Path) -> None:
    """Bit for bit, twice interrupted, whatever the random state was before it went on."""
    recipe = recipe_of(variant)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    torch.manual_seed(5)
    expected = train(recipe, whole)
    torch.manual_seed(5)
    train(recipe, broken, stop_before=3)
    torch.manual_seed(6)
    train(recipe, broken, stop_before=6)
    torch.manual_seed(7)
    model = train(recipe, broken)
    assert_same(dict(model.state_dict()), dict(expected.state_dict()))
    assert_same(state_of(broken, tmp_path / "state.pt"), state_of(whole, tmp_path / "state.pt"))
    assert without_times(broken) == without_times(whole)
    assert [record.step for record in records_of(broken)] == list(range(8))


def test_dropout_s_random_state_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would pass without it."""
    recipe = recipe_of("lora")
    train(recipe, tmp_path / "unbroken")
    train(recipe, tmp_path / "resumed", stop_before=5)
    monkeypatch.setattr("training.loop.snapshots.set_random_state", lambda _: None)
    train(recipe, tmp_path / "resumed")
    unbroken, resumed = ([record.loss for record in records_of(tmp_path / name)] for name in ("unbroken", "resumed"))
    assert unbroken[:5] == resumed[:5]
    assert unbroken != resumed


def test_steps_after_the_snapshot_are_not_recorded_twice(tmp_path: Path) -> None:
    """A run that was killed had written steps that it had not saved."""
    recipe = recipe_of("adamw")
    train(recipe, tmp_path, stop_before=5)
    path = tmp_path / "steps.jsonl"
    lost = replace(records_of(tmp_path)[-1], step=5, loss=99.0)
    line = path.read_text().splitlines()[-1].replace('"step": 4', '"step": 5').replace(f"{lost.loss}", "99.0")
    path.write_text(f"{path.read_text()}{line}\n" + '{"step": 6, "lo')
    train(recipe, tmp_path)
    records = records_of(tmp_path)
    assert [record.step for record in records] == list(range(8))
    assert records[5].tokens_per_second != lost.tokens_per_second


def test_a_stop_at_the_last_step_is_no_interruption(tmp_path: Path) -> None:
    stop, recipe = StopRequest(), recipe_of("adamw")
    stop.signal_number = 15
    recipe = replace(recipe, adaptation=replace(recipe.adaptation, tokens=4 * 64))
    assert recipe.adaptation.steps == 1
    trainer = trainer_of(recipe, tmp_path)
    trainer.train(model_of(recipe), stop)
    assert trainer.snapshots.steps() == [1]


def test_too_few_runs_for_a_batch() -> None:
    with pytest.raises(ValueError, match="hold 3 runs of 64 tokens; a batch needs 4"):
        Batches([Part([repetitive_documents(1, 200)])], sequence_tokens=64, batch_sequences=4, num_steps=1, seed=0)


def test_the_steps_of_a_stage() -> None:
    stage: Stage = tiny_recipe().adaptation
    assert stage.steps == 10
    assert replace(stage, tokens=1).steps == 1


def test_the_recipe_s_precision_is_that_of_its_matrices(tmp_path: Path) -> None:
    recipes: list[Recipe] = [recipe_of("adamw"), recipe_of("bf16")]
    for recipe in recipes:
        model = train(recipe, tmp_path / recipe.precision)
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    exact, rough = (records_of(tmp_path / name)[0].loss for name in ("no", "bf16"))
    assert exact != rough
    assert exact == pytest.approx(rough, rel=1e-2)
