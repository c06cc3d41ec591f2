"""Scripts that wait for a GPU run on a CPU, with small shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_training_speed_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "gpu" / "train.py", "--out", tmp_path, "speed", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "speed.json").read_text())
    assert measured["adaptation"]["tokens_per_second"] > 0
    share = measured["adaptation"]["flops_per_second"] / measured["matmul_flops_per_second"]
    assert measured["adaptation"]["share_of_matmul_rate"] == pytest.approx(share)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    script = ROOT / "benchmarks" / "training_memory.py"
    command = [sys.executable, script, "--kind", "gradients stop after 2 steps", "--segments", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 2**27 < int(done.stdout.split()[-1]) < 2**33
