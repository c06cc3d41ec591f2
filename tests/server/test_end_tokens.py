"""What ends a generation: the end tokens that a checkpoint names anywhere, and those that a request names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from server.engine.torch.build import end_of_text_ids
from tests.server.conftest import Serve
from tests.tiny import tiny_compressor

ASKED: dict[str, Any] = {"prompt": "The keeper wrote one line a day", "max_tokens": 12, "temperature": 0}


def test_every_end_token_that_a_checkpoint_names_ends_a_text() -> None:
    """Those of generation_config.json were passed over."""
    model = tiny_compressor()
    model.base.config.eos_token_id = [7, 8]
    model.base.generation_config.eos_token_id = [8, 9]
    assert end_of_text_ids(model) == {0, 7, 8, 9}  # 0 is the tokenizer's
    model.base.generation_config.eos_token_id, model.base.config.eos_token_id = 5, None
    assert end_of_text_ids(model) == {0, 5}


async def test_a_checkpoint_s_generation_config_is_read(serve: Serve, checkpoint: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    async with serve() as client:
        whole = (await client.post("/v1/completions", json={**ASKED, "logprobs": 0})).json()["choices"][0]
        (end,) = client.services.model.tokenise(whole["logprobs"]["tokens"][4], is_start=False)  # type: ignore[attr-defined]
    written = json.loads((changed / "generation_config.json").read_text())
    (changed / "generation_config.json").write_text(json.dumps({**written, "eos_token_id": [0, end]}))
    async with serve(model=str(changed)) as client:
        ended = (await client.post("/v1/completions", json=ASKED)).json()["choices"][0]
    assert ended["finish_reason"] == "stop"
    assert whole["text"].startswith(ended["text"])
    assert len(ended["text"]) < len(whole["text"])
