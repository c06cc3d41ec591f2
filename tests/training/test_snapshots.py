"""What a run leaves on disk is whole or not there, whenever it is ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import cpu_accelerator
from tests.training.runs import (
    INTERRUPTED_STATUS,
    KILLED_SAVE,
    model_of,
    recipe_of,
    records_of,
    train,
    trainer_of,
)
from training.loop.optimisation import build_optimisers
from training.loop.snapshots import Snapshots
from training.loop.stopping import StopRequest

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 300


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def started(kind: str, directory: Path) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.runs", kind, str(directory)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # bit for bit goes with the same number
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved(directory: Path, *steps: int) -> Snapshots:
    """Snapshots of a model before some steps; its summary embeddings are the step."""
    model, snapshots = model_of(recipe_of("adamw")), Snapshots(directory, cpu_accelerator())
    optimisers = build_optimisers(model, recipe_of("adamw").adaptation)
    for step in steps:
        torch.nn.init.constant_(model.embed_summary.weight, step)
        snapshots.save(step, model, optimisers)
    return snapshots


def restored(snapshots: Snapshots) -> tuple[int, float]:
    model = model_of(recipe_of("adamw"))
    step = snapshots.restore(model, build_optimisers(model, recipe_of("adamw").adaptation))
    return step, float(model.embed_summary.weight.detach().mean())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    snapshots = saved(tmp_path, 3, 20, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert restored(snapshots) == (100, 100.0)
    snapshots.clear()
    assert snapshots.steps() == []
    assert restored(snapshots)[0] == 0


def test_one_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    snapshots = saved(tmp_path, 3, 3)
    assert restored(snapshots) == (3, 3.0)


def test_an_unfinished_one_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    unfinished = tmp_path / "step-00000005.unfinished"
    unfinished.mkdir()
    (unfinished / "__0_0.distcp").write_bytes(b"half of it")
    (unfinished / "of another process").write_bytes(b"")
    snapshots = Snapshots(tmp_path, cpu_accelerator())
    assert snapshots.steps() == [3]
    assert restored(snapshots) == (3, 3.0)
    saved(tmp_path, 5)
    assert restored(snapshots) == (5, 5.0)
    assert not unfinished.exists()
    assert not (tmp_path / "step-00000005" / "of another process").exists()


@pytest.mark.slow
def test_kill_9_during_a_save_leaves_the_one_before(tmp_path: Path) -> None:
    """The run goes on from it, and ends as if nothing had happened."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = started("killed", broken)
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == -signal.SIGKILL, output
    names = sorted(path.name for path in (broken / "snapshots").iterdir())
    assert names == ["step-00000001", "step-00000002", f"step-0000000{KILLED_SAVE}.unfinished"]
    model, recipe = model_of(recipe_of("adamw")), recipe_of("adamw")
    trainer_of(recipe, broken).train(model, StopRequest())
    expected = train(recipe, whole)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert [record.loss for record in records_of(broken)] == [record.loss for record in records_of(whole)]


@pytest.mark.slow
def test_sigterm_saves_and_stops(tmp_path: Path) -> None:
    process = started("endless", tmp_path)
    stage, deadline = tmp_path / "run" / "pretraining", time.monotonic() + DEADLINE_SECONDS
    while len(records_of(stage)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.terminate()
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == INTERRUPTED_STATUS, output
    step = len(records_of(stage))
    assert step >= 2
    assert output.splitlines()[-1] == f"stopped before step {step}; the same command goes on from there"
    assert Snapshots(stage / "snapshots", cpu_accelerator()).steps() == [step]
    assert not (tmp_path / "run" / "base").exists()
