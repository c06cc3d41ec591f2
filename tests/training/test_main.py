"""`python -m training` from a folder of documents to a checkpoint."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import training.__main__
from model import AutoCompressor
from tests.tiny import TEXT, tiny_recipe
from training.__main__ import app


@pytest.fixture(scope="module", autouse=True)
def small_recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(training.__main__, "RECIPES", {"tiny": tiny_recipe})
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = [json.dumps({"text": f"{number}. {TEXT}"}) for number in range(8)]
    (folder / "keeper.train.jsonl").write_text("\n".join([*records, "no record", ""]))
    (folder / "keeper.test.jsonl").write_text("this file must not be read\n")
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
    return CliRunner().invoke(app, ["--data", str(data), "--out", str(out), *more])


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
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training.__main__, "pretrain", must_not_run)
    assert run(data, tmp_path / "out").exit_code != 0
    assert "keeper.train.jsonl: left out 1 with no JSON" in caplog.messages
    assert not any("keeper.test" in message for message in caplog.messages)


# --- starting again


def test_a_stage_found_finished_is_not_run_again(data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(finished)
    for stage in ("train_tokenizer", "tokenise", "pretrain"):
        monkeypatch.setattr(training.__main__, stage, must_not_run)
    finish(data, finished)
    after = contents(finished)
    assert after.keys() == before.keys()
    for name in before:
        if not name.startswith("checkpoint/"):
            assert after[name] == before[name], name


def test_a_finished_run_is_not_run_again(data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adaptation is a stage like the others."""
    before = contents(finished)
    monkeypatch.setattr(training.__main__, "adapt", must_not_run)
    finish(data, finished)
    assert contents(finished) == before


@pytest.mark.parametrize("stage", ["pretrain", "adapt"])
def test_a_run_that_stopped_goes_on(
    stage: str, data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in a stage and started again, it ends where the unbroken run ended."""
    out = tmp_path / "resumed"
    with monkeypatch.context() as stopping:
        stopping.setattr(training.__main__, stage, must_not_run)
        assert run(data, out).exit_code != 0
    assert (out / "tokens.npz").is_file()
    finish(data, out)
    resumed, expected = (AutoCompressor.from_pretrained(path / "checkpoint").fingerprint for path in (out, unbroken))
    assert resumed == expected


# --- what cannot work


def test_an_unknown_recipe_is_named(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "--recipe", "huge")
    assert result.exit_code == 2
    assert "there is no recipe 'huge'; there are: tiny" in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_a_folder_without_documents_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / folder, tmp_path / "out")
    assert result.exit_code != 0
    message = f"{result.output} {result.exception}"
    assert f"{tmp_path / folder} has no file ending in .jsonl" in message
    assert not (tmp_path / "out").exists()


def test_files_without_documents_leave_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.train.jsonl").write_text('{"title": "no text"}\n')
    result = run(tmp_path / "data", tmp_path / "out")
    assert result.exit_code != 0
    assert "no documents" in f"{result.output} {result.exception}"


def test_too_little_text_leaves_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.train.jsonl").write_text('{"text": "one line"}\n')
    result = run(tmp_path / "data", tmp_path / "out")
    assert result.exit_code != 0
    assert "runs of 32 tokens; a batch needs 4" in f"{result.output} {result.exception}"
