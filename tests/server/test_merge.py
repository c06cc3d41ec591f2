"""`autocompressor merge`: what it writes needs no base and is the same model."""

from pathlib import Path

import torch
from typer.testing import CliRunner

from model import AutoCompressor
from model.bases.reference import BaseReference, weights_digest
from server.cli.main import app
from tests.tiny import random_ids, tiny_anchored, tiny_base, tiny_tokenizer


def stored(directory: Path) -> Path:
    """An adapter checkpoint, and its base beside it."""
    base = directory / "base"
    tiny_base("llama").save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    reference = BaseReference(str(base), None, weights_digest(base))
    tiny_anchored().save_adapter(directory / "adapter", reference)
    return directory / "adapter"


@torch.no_grad()
def test_a_merged_checkpoint_is_the_model_and_needs_no_base(tmp_path: Path) -> None:
    adapter, out = stored(tmp_path), tmp_path / "merged"
    ids = random_ids(1, 40)
    expected = AutoCompressor.from_pretrained(adapter)(ids, segment_lengths=16).logits
    result = CliRunner().invoke(app, ["merge", str(adapter), str(out)])
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    (tmp_path / "base").rename(tmp_path / "gone")
    torch.testing.assert_close(AutoCompressor.from_pretrained(out)(ids, segment_lengths=16).logits, expected)


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    adapter = stored(tmp_path)
    result = CliRunner().invoke(app, ["merge", str(adapter), str(tmp_path / "base")])
    assert (result.exit_code, result.stderr.count("is there already")) == (2, 1)
    (tmp_path / "base").rename(tmp_path / "gone")
    result = CliRunner().invoke(app, ["merge", str(adapter), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()
