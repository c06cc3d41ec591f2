"""`python -m training` from a folder of documents to a checkpoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import Result
from typer.testing import CliRunner

import training.commands.train
from model import AutoCompressor
from tests.tiny import TEXT, tiny_recipe
from training.__main__ import app
from training.loop.records import Record, Records, read_records
from training.loop.trainer import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def small_recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(training.commands.train, "RECIPES", {"tiny": tiny_recipe})
        yield


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    """accelerate keeps one state a process; each call of the program is a process of its own outside of tests."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = [json.dumps({"text": f"{number}. {TEXT}"}) for number in range(8)]
    (folder / "keeper.train.jsonl").write_text("\n".join([*records, "no record", ""]))
    (folder / "keeper.test.jsonl").write_text("this file must not be read\n")
    (folder / "keeper.valid.jsonl").write_text(json.dumps({"text": f"held out. {TEXT}"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory, small_recipe: None) -> Path:
    """What one whole run wrote; copy it before changing it."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    finish(data, out, "--recipe", "tiny")
    return out


@pytest.fixture
def finished(unbroken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "finished"))


def run(data: Path, out: Path, *more: str) -> Result:
    AcceleratorState._reset_state(reset_partial_state=True)
    cache = data.parent / "tokens"
    return CliRunner().invoke(app, ["--data", str(data), "--out", str(out), "--cache", str(cache), *more])


def message_of(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def finish(data: Path, out: Path, *more: str) -> None:
    result = run(data, out, *more)
    assert result.exit_code == 0, result.exception


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def must_not_run(*_args: Any, **_options: Any) -> None:
    raise AssertionError("a finished stage ran again")


# --- what a run leaves


def test_a_run_ends_in_a_checkpoint(unbroken: Path) -> None:
    model = AutoCompressor.from_pretrained(unbroken / "checkpoint")
    assert (model.summary_length, model.accumulate_summary, model.segment_length) == (3, True, 20)
    assert model.dtype == torch.bfloat16
    assert model.max_positions == 128
    text = "Ninety lines had the winter."
    assert model.tokenizer.decode(model.tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    ids = torch.tensor([model.tokenizer(TEXT[:100])["input_ids"]])
    vectors = model.compress(ids, segment_lengths=model.segment_length)
    assert vectors.isfinite().all()
    assert model.generate(ids[:, :5], soft_prompt=vectors, max_new_tokens=3).shape[1] > 5


def test_the_checkpoint_is_of_the_trained_weights(unbroken: Path) -> None:
    """Neither the base before adaptation nor summary embeddings as they began."""
    base = AutoCompressor.from_base(unbroken / "base", 3)
    model = AutoCompressor.from_pretrained(unbroken / "checkpoint", dtype=torch.float32)
    assert (model.embed_summary.weight - base.embed_summary.weight).abs().max() > 1e-2
    assert (model.base.model.norm.weight - base.base.model.norm.weight).abs().max() > 1e-2


def test_the_seed_decides_the_checkpoint(data: Path, unbroken: Path, tmp_path: Path) -> None:
    for name, seed in (("same", "0"), ("other", "4")):
        finish(data, tmp_path / name, "--seed", seed)
    first, same, other = (
        AutoCompressor.from_pretrained(out / "checkpoint").fingerprint
        for out in (unbroken, tmp_path / "same", tmp_path / "other")
    )
    assert first == same != other


def test_bad_records_are_told_and_the_other_split_left_alone(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finish(data, tmp_path / "out")
    assert "keeper.train.jsonl: left out 1 with no JSON: record 9" in caplog.messages
    assert not any("keeper.test" in message for message in caplog.messages)


def test_a_run_leaves_a_report(unbroken: Path, data: Path) -> None:
    report = unbroken / "report"
    assert (report / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = (report / "table.md").read_text()
    assert "| pretraining | 20 |" in table
    assert "| adaptation | 10 |" in table
    assert "keeper" in table  # the held-out domain
    noted = json.loads((report / "run.json").read_text())
    assert noted["recipe"]["adaptation"]["batch_sequences"] == 2
    assert noted["data"] == [{"path": str(data), "weight": None}]
    assert {"commit", "versions", "device"} <= noted.keys()


def test_figures_of_every_step_are_kept(unbroken: Path) -> None:
    for stage, steps, segments in (("pretraining", 20, 1), ("adaptation", 10, 4)):
        records = read_records(unbroken / stage / "steps.jsonl")
        assert [record.step for record in records] == list(range(steps))
        assert all(len(record.segment_losses) == segments for record in records)
        assert list((unbroken / stage / "tensorboard").glob("events.*"))
        assert not (unbroken / stage / "snapshots").exists()


# --- starting again


def test_a_finished_run_is_not_run_again(data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(finished)
    monkeypatch.setattr(Trainer, "train", must_not_run)
    finish(data, finished)
    after = contents(finished)
    assert after.keys() == before.keys()
    for name in before:
        if not name.startswith("report/"):
            assert after[name] == before[name], name


def test_a_base_found_finished_is_adapted_as_before(data: Path, finished: Path, unbroken: Path) -> None:
    shutil.rmtree(finished / "checkpoint")
    shutil.rmtree(finished / "adaptation")
    base = contents(finished / "base")
    finish(data, finished)
    assert contents(finished / "base") == base
    assert fingerprint_of(finished) == fingerprint_of(unbroken)


@pytest.mark.parametrize("stage", ["pretraining", "adaptation"])
def test_a_run_that_stopped_goes_on(
    stage: str, data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGTERM in a stage and started again, it ends where the unbroken run ended."""
    out = tmp_path / "resumed"
    add = Records.add

    def add_and_stop(records: Records, record: Record) -> None:
        add(records, record)
        if record.step == 4 and records.path.parent.name == stage:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as stopping:
        stopping.setattr(Records, "add", add_and_stop)
        stopped = run(data, out)
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert not (out / "checkpoint").exists()
    assert (out / stage / "snapshots" / "step-00000006").is_dir()  # the step after the signal is finished first
    finish(data, out)
    assert fingerprint_of(out) == fingerprint_of(unbroken)


def fingerprint_of(out: Path) -> str:
    return AutoCompressor.from_pretrained(out / "checkpoint").fingerprint


def test_an_autocompressor_is_trained_further(data: Path, unbroken: Path, tmp_path: Path) -> None:
    """Its summary embeddings are taken over; a base of another kind starts them anew."""
    before = AutoCompressor.from_pretrained(unbroken / "checkpoint", dtype=torch.float32).embed_summary.weight
    frozen = ["--learning-rate", "1e-9", "--base", str(unbroken / "checkpoint"), "--train", "summary"]
    finish(data, tmp_path / "same", *frozen)
    finish(data, tmp_path / "other", *frozen, "--method", "rmt")
    same, other = (AutoCompressor.from_pretrained(tmp_path / name / "checkpoint") for name in ("same", "other"))
    assert torch.equal(same.embed_summary.weight.float(), before)
    assert not torch.equal(other.embed_summary.weight.float(), before)


def test_a_table_that_cannot_be_made_is_said_in_the_report(data: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    shutil.copy(data / "keeper.train.jsonl", folder)
    (folder / "keeper.valid.jsonl").write_text('{"text": "a line"}\n')
    finish(folder, tmp_path / "out", "--base", str(unbroken / "base"))
    assert "No table of held-out documents: no document of keeper" in (tmp_path / "out/report/table.md").read_text()


@pytest.mark.parametrize("change", [("--seed", "1"), ("--method", "rmt")])
def test_another_run_s_folder_is_refused(data: Path, finished: Path, change: tuple[str, str]) -> None:
    before = contents(finished)
    result = run(data, finished, *change)
    assert result.exit_code == 2
    assert "another --out" in message_of(result)
    assert contents(finished) == before


# --- baselines


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "rmt"], (3, False, 128)),
        (["--method", "no-context"], (0, True, 128)),
        (["--method", "full-attention", "--max-positions", "256"], (0, True, 256)),
        (["--fixed-segments", "--no-stop-gradient"], (3, True, 128)),
        (["--summary-length", "5", "--recompute-segments"], (5, True, 128)),
        (["--train", "lora", "--lora-rank", "2", "--learning-rate", "1e-3"], (3, True, 128)),
        (["--train", "summary", "--learning-rate", "1e-3"], (3, True, 128)),
        (["--substeps", "1", "--segments-per-substep", "4", "--segment-length", "18"], (3, True, 128)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_baselines_are_a_flag_each(
    data: Path, unbroken: Path, tmp_path: Path, flags: list[str], expected: tuple[int, bool, int]
) -> None:
    out = tmp_path / "baseline"
    finish(data, out, "--base", str(unbroken / "base"), *flags)
    model = AutoCompressor.from_pretrained(out / "checkpoint")
    assert (model.summary_length, model.accumulate_summary, model.max_positions) == expected
    assert not (out / "base").exists()
    assert fingerprint_of(out) != fingerprint_of(unbroken)
    base = AutoCompressor.from_base(unbroken / "base", 3, dtype=torch.bfloat16)
    is_base_as_it_was = torch.equal(base.base.model.norm.weight, model.base.model.norm.weight)
    assert is_base_as_it_was == ("--train" in flags)


@pytest.mark.parametrize(("flags", "precision"), [([], "no"), (["--precision", "bf16"], "bf16")])
def test_a_machine_without_bfloat16_trains_in_float32(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], precision: str
) -> None:
    """Recipes say bfloat16, and on such a machine a run of minutes took hours."""
    monkeypatch.setattr(training.commands.train, "RECIPES", {"tiny": lambda: replace(tiny_recipe(), precision="bf16")})
    monkeypatch.setattr(training.commands.train, "computes_in_bfloat16", lambda device: False)
    out = tmp_path / "run"
    result = run(data, out, *flags)
    assert result.exit_code == 0, result.exception
    assert json.loads((out / "run.json").read_text())["recipe"]["precision"] == precision
    assert ("training in float32" in message_of(result)) == (not flags)


# --- other commands


def test_evaluation_prints_tables(data: Path, unbroken: Path, tmp_path: Path) -> None:
    options = ["--data", str(data), "--split", "valid", "--cache", str(tmp_path / "tokens"), "--max-windows", "4"]
    result = CliRunner().invoke(
        app,
        ["evaluate", "--checkpoint", str(unbroken / "checkpoint"), *options, "--json", str(tmp_path / "scores.json")],
    )
    assert result.exit_code == 0, result.output
    assert "keeper" in result.stdout
    assert "AutoCompressor" in result.stdout
    assert (tmp_path / "scores.json").is_file()


def test_a_plan_is_printed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--plan", "--on", "a100-80gb"])
    assert result.exit_code == 0, result.output
    assert "GiB" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_both_names_are_one_program() -> None:
    python = Path(sys.executable)
    commands = [[python, "-m", "training"], [python.with_name("autocompressor"), "train"]]
    told = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for command in commands
    ]
    one, other = (text[text.index("Adapt a language model") :] for text in told)
    assert one == other
    flags = re.findall(r"│ +(?:\* +)?(--[a-z-]+)", one)
    assert {"--recipe", "--data", "--method", "--no-stop-gradient", "--plan", "--shard"} <= set(flags)
    assert [flag for flag in flags if not re.search(rf"{flag}\b.*[A-Za-z]{{3,}}.*", one)] == []


# --- what cannot work


def test_an_unknown_recipe_is_named(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "--recipe", "huge")
    assert result.exit_code == 2
    assert "there is no recipe 'huge'; there are: tiny" in message_of(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_a_folder_without_documents_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / folder, tmp_path / "out")
    assert result.exit_code != 0
    told = (
        f"{tmp_path / folder} is no .jsonl" if folder == "empty" else f"there is no file or folder {tmp_path / folder}"
    )
    assert told in message_of(result)
    assert not (tmp_path / "out").exists()


def test_files_without_documents_leave_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.train.jsonl").write_text('{"title": "no text"}\n')
    result = run(tmp_path / "data", tmp_path / "out")
    assert result.exit_code != 0
    assert "no documents" in message_of(result)


def test_too_little_text_leaves_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.train.jsonl").write_text('{"text": "one line"}\n')
    result = run(tmp_path / "data", tmp_path / "out")
    assert result.exit_code != 0
    assert "no document in a.train.jsonl has the 64 tokens of a training sequence" in message_of(result)


def test_bad_values_are_named(data: Path, tmp_path: Path) -> None:
    for number, (flags, told) in enumerate(
        [
            (["--data", f"{data}=0"], "weight"),
            (["--train", "summary", "--method", "no-context", "--learning-rate", "1"], "leaves nothing to train"),
            (["--train", "lora"], "--train lora needs a --learning-rate"),
            (["--lora-rank", "4"], "--lora-rank 4 goes with --train lora"),
            (["--method", "no-context", "--summary-length", "4"], "say nothing with --method no-context"),
            (
                ["--method", "full-attention", "--summary-learning-rate", "1"],
                "say nothing with --method full-attention",
            ),
            (
                ["--train", "summary", "--learning-rate", "1", "--matrix-learning-rate", "1"],
                "--train summary trains none",
            ),
            (["--no-stop-gradient", "--substeps", "2"], "give one or the other"),
            (["--summary-length", "40"], "128 positions fit"),
            (["--base", "nowhere/at/all"], "nowhere/at/all"),
            (
                ["--micro-batch", "3", "--batch-sequences", "4"],
                "does not divide among 1 processes in micro-batches of 3",
            ),
            (["--base", "b", "--pretraining-tokens", "5"], "--pretraining-tokens 5"),
            (["--segments-per-substep", "1"], "no gradient reaches"),
        ]
    ):
        result = run(data, tmp_path / str(number), *flags)
        assert result.exit_code == 2, flags
        assert told in message_of(result), flags
