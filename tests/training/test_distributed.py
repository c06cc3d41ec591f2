"""Two processes that torchrun starts train what one does: replicated, sharded, and interrupted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model import AutoCompressor
from tests.tiny import cpu_accelerator, forget_accelerator, tiny_compressor
from tests.training.runs import STOPPED_BEFORE, VARIANTS, recipe_of, records_of, run_of, train
from training.loop.processes import layer_names, make_accelerator
from training.loop.snapshots import Snapshots
from training.loop.stopping import StopRequest

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 900
TOLERANCE = {
    "muon": 5e-3,  # it orthogonalises in bfloat16
    "lora on bfloat16": 5e-2,
    "bf16": 5e-2,  # sharded weights are gathered in bfloat16, where autocast rounds the operands of products alone
}
KINDS = ("replicated", "sharded")


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def launched(kind: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.training.runs", kind, str(directory)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return directory


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched("replicated", tmp_path_factory.mktemp("replicated"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched("sharded", tmp_path_factory.mktemp("sharded"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(
    kind: str, variant: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory = request.getfixturevalue(kind) / variant
    expected = train(recipe_of(variant), tmp_path)
    assert_same_training(directory, tmp_path, tolerance=TOLERANCE.get(variant, 1e-4))
    weights = torch.load(directory / "weights.pt", weights_only=True)
    assert weights.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=5 * TOLERANCE.get(variant, 4e-4), msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_interrupted_processes_go_on_as_if_unbroken(kind: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(kind)
    one, other = (torch.load(directory / name / "weights.pt", weights_only=True) for name in ("adamw", "resumed"))
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    losses = [[record.loss for record in records_of(directory / name)] for name in ("adamw", "resumed")]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_where_two_were_interrupted(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory = request.getfixturevalue(kind)
    shutil.copytree(directory / "interrupted", tmp_path / "one")
    assert Snapshots(tmp_path / "one" / "snapshots", cpu_accelerator()).steps() == [STOPPED_BEFORE]
    train(recipe_of("adamw"), tmp_path / "one")
    assert_same_training(tmp_path / "one", directory / "adamw", tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_two_processes_ends_as_one_of_one(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Tokenizer, base, adaptation, checkpoint: the first process writes them, and the second waits."""
    expected = run_of(tmp_path, cpu_accelerator())
    expected.train(StopRequest())
    actual = request.getfixturevalue(kind) / "run" / "run"
    for stage, steps in (("pretraining", 20), ("adaptation", 10)):
        directories = actual / stage, expected.directory / stage
        assert_same_training(*directories, tolerance=2e-2, num_steps=steps)  # Muon, thirty times
    one, other = (
        AutoCompressor.from_pretrained(path).state_dict() for path in (actual / "checkpoint", expected.checkpoint)
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0.05, msg=name)


def assert_same_training(one: Path, other: Path, *, tolerance: float, num_steps: int = 8) -> None:
    """Every step has the same figures."""
    actual, expected = records_of(one), records_of(other)
    assert [record.step for record in actual] == [record.step for record in expected] == list(range(num_steps))
    for record, wanted in zip(actual, expected, strict=True):
        assert record.loss == pytest.approx(wanted.loss, abs=tolerance)
        assert record.segment_losses == pytest.approx(wanted.segment_losses, abs=5 * tolerance)
        assert record.gradient_norm == pytest.approx(wanted.gradient_norm, rel=50 * tolerance)


def test_the_layers_of_an_architecture() -> None:
    for family in ("opt", "llama", "qwen3"):
        model = tiny_compressor(family)
        (name,) = layer_names(model)
        assert [type(module).__name__ for module in model.modules()].count(name) == 2


def test_nothing_to_shard_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # accelerate sets it, and it outlives the accelerator
    forget_accelerator()
    with pytest.raises(ValueError, match="over the GPUs of processes that torchrun starts; this is 1 on"):
        make_accelerator(precision="no", is_sharded=True)
