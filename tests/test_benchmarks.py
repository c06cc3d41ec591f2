"""How benchmarks count; and scripts that wait for a GPU run on a CPU, with small shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    capacity,
    compression,
    conversation,
    generation,
    interference,
    memory,
    profile,
    questions,
    replicas,
    serving,
)
from benchmarks.measuring import Row, Spread, as_markdown, compared, take_turns
from benchmarks.subject import Subject, make_model
from benchmarks.transformers_peer import Transformers

ROOT = Path(__file__).parents[1]


def test_sides_take_turns_after_a_round_to_warm_up() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    measured = take_turns({"ours": lambda: side("ours"), "theirs": lambda: side("theirs")}, 3)
    assert calls == ["ours", "theirs"] * 4
    assert measured == {"ours": [3.0, 5.0, 7.0], "theirs": [4.0, 6.0, 8.0]}


def test_a_ratio_is_taken_round_by_round() -> None:
    measured = {"ours": [2.0, 30.0, 8.0], "peer": [1.0, 10.0, 8.0]}
    row = compared("E1", "speed", measured, peer="peer", target=1.5, side_unit="tokens/s")
    assert row.value == Spread(2.0, 1.0, 3.0)
    assert row.sides["ours"] == Spread(8.0, 2.0, 30.0)
    assert row.is_met


def test_a_limit_is_met_from_below_and_the_table_says_so() -> None:
    spread = Spread(2.5, 2.0, 3.0)
    rows = [Row("E7", "lookup", spread, "ms", 2.0, is_limit=True), Row("E8", "append", spread, "×", 2.0)]
    assert [row.is_met for row in rows] == [False, True]
    *_, first, second = as_markdown(rows).splitlines()
    assert first == "| E7 | lookup | 2.5 ms | 2.0 ms to 3.0 ms | ≤ 2.0 ms | no | – |"
    assert second == "| E8 | append | 2.50× | 2.00× to 3.00× | ≥ 2.00× | yes | – |"


def test_memory_is_flat_where_it_stays_what_it_was_once_caches_were_full() -> None:
    rising = [(number, 1000 + number) for number in range(0, 2001, 200)]
    level = [(number, 1000 + min(number, 600)) for number in range(0, 2001, 200)]
    assert memory.verdict(rising).startswith("grows: 1.667")
    assert memory.verdict(level).startswith("flat: 1.000")


def test_a_capacity_is_the_arithmetic_of_its_units() -> None:
    """A device that does one thing a second for each number below, so that the sums can be done in the head."""
    base = capacity.Base("unit", params=100.0, width=4, layers=1, kv_width=1)  # 200 bytes of weights, 4 a position
    device = capacity.Device("unit", flops=2000.0, memory_bytes=1000.0, bytes_a_second=240.0)
    load = capacity.Load(
        passages=1000, passage_tokens=10, vectors_a_token=0.1, rate=2.0, candidates=8, question_tokens=2,
        answer_tokens=2, compute_share=0.5, bandwidth_share=1.0, rows=1, lookups=1.5, hit_rate=0.5,
    )  # fmt: skip
    need = capacity.need(base, device, load)
    # 10 positions read at 0.2 s, and 2 steps of (200 + 11 x 4) / 240 s: 4.03 s a question
    assert need.replicas == 9
    # 82 at 0.2 s, and 2 steps of (200 + 83 x 4) / 240 s: 20.8 s
    assert need.text_replicas == 42
    assert need.compress_hours == pytest.approx(10_000 * 0.2 / 3600)
    assert need.redis_bytes == 1000 * 8 * 1.25
    assert need.network_bits == 2 * 0.5 * 8 * 8 * 8
    assert (need.devices_a_replica, need.processes) == (1, 2)


def test_the_balancer_s_configuration_takes_other_ports() -> None:
    written = replicas.configured(9000, [9001, 9002])
    assert "listen 127.0.0.1:9000 " in written
    assert [line.split()[1] for line in written.splitlines() if line.startswith("  server ")] == [
        "127.0.0.1:9001",
        "127.0.0.1:9002",
    ]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_model(
        folder, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peers_compute_in_what_the_engine_does(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    """The peers had bfloat16 whatever the machine; where it has no instructions for it the engine takes float32."""
    with Subject(tiny_model, tmp_path / "summaries.sqlite3", dtype=dtype) as subject:
        vectors = subject.random_vectors(4, seed=0)
        with Transformers(tiny_model, subject.dtype) as transformers:
            rate = transformers.generate(vectors[None], 2)
    assert str(vectors.dtype) == f"torch.{dtype}"
    assert rate > 0


SMALL = {
    generation: {"NEW_TOKENS": 4},
    compression: {"LONG_TOKENS": 12_000},
    questions: {"NUM_DOCUMENTS": 16, "NUM_VISITS": 4, "NUM_PASSAGES": 8},
    interference: {"LONG_TOKENS": 6_000},
    serving: {"NEW_TOKENS": 4, "LOOKUPS": 64},
    conversation: {"TURNS": 12, "NEW_TOKENS": 4, "EARLY": slice(2, 7), "LATE": slice(7, 12)},
}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_row_is_measured(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but vLLM's rows, once, with a model and numbers that are small enough."""
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    with (
        Subject(tiny_model, tmp_path / "summaries.sqlite3") as subject,
        Transformers(tiny_model, subject.dtype) as transformers,
    ):
        rows = [
            *generation.run(subject, transformers, None, None, rounds=1),
            *compression.run(subject, transformers, None, None, rounds=1),
            *questions.run(subject, None, rounds=1),
            *interference.run(subject, rounds=1),
            *serving.run(subject, tiny_model, tmp_path, rounds=1),
            *conversation.run(tiny_model, tmp_path, rounds=1),
        ]
    assert {row.experiment for row in rows} == {"E1", "E2", "E3", "E6", "E7", "E8", "E9", "E10", "E11", "E13"}
    for row in rows:
        assert row.value.low <= row.value.median <= row.value.high
        assert all(side.low > 0 for side in row.sides.values()), row


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
    """The figure was that of the process that started it, where that had held more."""
    held = bytearray(b"1") * 2**31  # bytes of this process, which are no part of the other's
    command = [sys.executable, "-m", "benchmarks.training_memory", "--kind", "gradients stop after 2 steps"]
    command += ["--segments", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 2**27 < int(done.stdout.split()[-1]) < len(held)


@pytest.mark.slow
def test_the_engine_s_gpu_script_runs_small_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.engine", "--out", str(tmp_path), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "engine.json").read_text())
    shares = [each["share_of_matmul_rate"] for each in measured["compression"].values()]
    shares += [each["share_of_bound"] for each in measured["decoding"].values()]
    assert all(share > 0 for share in shares)
    assert all(each["ratio"] > 0 for each in measured["beside_continuous_batching"].values())


def test_a_step_is_divided_by_kinds_of_work() -> None:
    """What an operator takes belongs to what is around it, products to themselves, and what is left to Python."""
    states, weight = torch.randn(64, 256), torch.randn(256, 256)
    norm = profile._as("norms", lambda: (states * states.square().mean(-1, keepdim=True).rsqrt()).sum())
    found = profile.profiled("step", lambda: (norm(), states @ weight, states.clone()), repeats=5)
    assert set(found.kinds) == {*profile.KINDS, profile.BETWEEN}
    assert {kind for kind, count in found.calls.items() if count} >= {"norms", "products", "copies and casts"}
    assert found.kinds["norms"] > 0 < found.kinds["products"]
    assert sum(found.kinds.values()) >= found.wall * 0.99
    assert profile.as_markdown([found]).splitlines()[-1] == f"| all | {found.wall:.2f} |"
