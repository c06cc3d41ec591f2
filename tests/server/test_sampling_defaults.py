"""How tokens are drawn where a request does not say: as the checkpoint's generation_config does."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve

ASKED: dict[str, Any] = {"prompt": "The keeper wrote one line a day", "max_tokens": 8, "seed": 1}
MESSAGES = [{"role": "user", "content": ASKED["prompt"]}]
SPOKEN: dict[str, dict[str, Any]] = {
    "/generate": ASKED,
    "/v1/completions": ASKED,
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 8, "seed": 1},
    "/v1/responses": {"input": ASKED["prompt"], "max_output_tokens": 16},
}


@pytest.fixture
async def greedy(serve: Serve, checkpoint: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server of a checkpoint that asks for its most likely token alone."""
    changed = tmp_path / "greedy"
    shutil.copytree(checkpoint, changed)
    written = json.loads((changed / "generation_config.json").read_text())
    sampled = {"do_sample": True, "temperature": 0.5, "top_k": 1}
    (changed / "generation_config.json").write_text(json.dumps(written | sampled))
    async with serve(model=str(changed)) as client:
        yield client


async def said(client: httpx.AsyncClient, path: str, **others: Any) -> Any:
    """An answer without what differs from call to call."""
    model = {"model": "greedy"} if path.startswith("/v1/") else {}
    answer = (await client.post(path, json=SPOKEN[path] | model | others)).raise_for_status().json()
    if "choices" in answer:
        return answer["choices"]
    return answer["text"] if "text" in answer else answer["output"][0]["content"]


@pytest.mark.parametrize("path", SPOKEN)
async def test_what_a_request_leaves_open_is_the_checkpoint_s(greedy: httpx.AsyncClient, path: str) -> None:
    likeliest = await said(greedy, path, temperature=0)
    assert await said(greedy, path) == likeliest
    assert await said(greedy, path, temperature=None) == likeliest
    assert await said(greedy, path, temperature=10) == likeliest  # of one token, whatever the temperature


async def test_a_request_has_the_last_word(greedy: httpx.AsyncClient) -> None:
    likeliest = await said(greedy, "/generate")
    assert await said(greedy, "/generate", temperature=10, top_k=-1) != likeliest
    assert await said(greedy, "/generate", temperature=10, top_k=100) != likeliest


async def test_it_is_told(greedy: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    assert (await greedy.get("/info")).json()["model"]["sampling"] == {"temperature": 0.5, "top_k": 1}
    response = (await greedy.post("/v1/responses", json=SPOKEN["/v1/responses"] | {"model": "greedy"})).json()
    assert (response["temperature"], response["top_p"]) == (0.5, 1.0)
    assert (await client.get("/info")).json()["model"]["sampling"] == {}
