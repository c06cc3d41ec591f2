"""A tokenizer with more tokens than the model has embeddings: what has one of those is refused, and nothing else."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Serve

SAID = "Hello <tool> there"
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("/generate", {"prompt": SAID}, "prompt"),
    ("/generate", {"context": [{"text": SAID}]}, "context"),
    ("/v1/completions", {"prompt": ["fine", SAID]}, "prompt.1"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SAID}]}, "messages"),
    ("/compress", {"text": SAID}, "text"),
    ("/compress", {"documents": [{"text": "fine"}, {"text": SAID}]}, "documents.1.text"),
    ("/score", {"prompt": "a", "continuations": ["fine", SAID]}, "continuations.1"),
    ("/score", {"text_1": "a", "text_2": SAID}, "text_2"),
    ("/rerank", {"query": SAID, "documents": ["a"]}, "query"),
    ("/rerank", {"query": "a", "documents": ["fine", SAID]}, "documents.1"),
    ("/tokenize", {"text": SAID}, "text"),
]


@pytest.fixture
def large(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of 320 embeddings whose tokenizer has a token 320."""
    changed = tmp_path / "large"
    shutil.copytree(checkpoint, changed)
    file = changed / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 320, "content": "<tool>", "special": False})
    file.write_text(json.dumps(tokenizer))
    return changed


async def test_a_token_without_embedding_is_refused_with_the_numbers(
    serve: Serve, large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It failed the forward pass."""
    async with serve(model=str(large)) as client:
        assert "ids up to 320 and the model 320 embeddings" in caplog.text
        for path, body, param in CASES:
            refused = await client.post(path, json=body)
            assert refused.status_code == 400, (path, body)
            error = refused.json()["error"]
            assert (error["code"], error["param"]) == ("invalid_request", param)
            assert "'<tool>', id 320; the model has 320 embeddings" in error["message"]


async def test_neighbours_of_such_a_text_are_answered(serve: Serve, large: Path) -> None:
    async with serve(model=str(large)) as client:
        prompts = [SAID, *(f"Once upon a time {number}" for number in range(5))]
        asked = [client.post("/generate", json={"prompt": prompt, "max_tokens": 4}) for prompt in prompts]
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [400, *[200] * 5]
