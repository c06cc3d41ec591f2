"""What an engine keeps of a checkpoint: its own copy of the weights, and not the file."""

import sys
from pathlib import Path

import pytest
import torch

from model import AutoCompressor
from server.engine.torch.devices import choose_kernels
from server.engine.torch.packed import PackedModel
from server.engine.torch.runner import Runner
from tests.tiny import tiny_anchored, tiny_compressor


def mapped(directory: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux'")
@pytest.mark.parametrize("kind", ["llama", "opt", "anchored"])
def test_the_checkpoint_leaves_memory(tmp_path: Path, kind: str) -> None:
    made = tiny_anchored() if kind == "anchored" else tiny_compressor(kind)
    made.save_pretrained(tmp_path)
    model = AutoCompressor.from_pretrained(tmp_path, dtype=torch.float32)
    assert mapped(tmp_path)
    Runner(PackedModel(model, choose_kernels("auto", model.device, model.dtype), num_rows=2, max_tokens=64))
    assert not mapped(tmp_path)
