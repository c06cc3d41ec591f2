"""What ends a generation: the end tokens that a checkpoint names anywhere, and those that a request names."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.cli.local import LocalClient
from server.engine.protocol import Prompt, SamplingParams
from server.engine.torch.build import end_of_text_ids
from tests.server.conftest import Serve
from tests.tiny import tiny_compressor

ASKED: dict[str, Any] = {"prompt": "The keeper wrote one line a day", "max_tokens": 12, "temperature": 0}


async def generated(client: httpx.AsyncClient) -> list[int]:
    """The tokens that the prompt is continued with."""
    services: Any = client.services  # type: ignore[attr-defined]
    prompt = Prompt(None, tuple(services.model.tokenise(ASKED["prompt"], is_start=True)))
    params = SamplingParams(ASKED["max_tokens"], temperature=0)
    return [event.token_id async for event in services.decoder.generate(prompt, params)]


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
        whole = (await client.post("/v1/completions", json=ASKED)).json()["choices"][0]
        end = (await generated(client))[4]
    written = json.loads((changed / "generation_config.json").read_text())
    (changed / "generation_config.json").write_text(json.dumps({**written, "eos_token_id": [0, end]}))
    async with serve(model=str(changed)) as client:
        ended = (await client.post("/v1/completions", json=ASKED)).json()["choices"][0]
    assert ended["finish_reason"] == "stop"
    assert whole["text"].startswith(ended["text"])
    assert len(ended["text"]) < len(whole["text"])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_stop_token_id_ends_an_answer(client: httpx.AsyncClient, path: str) -> None:
    said = {"messages": [{"role": "user", "content": "Who?"}]} if path.endswith("chat/completions") else ASKED
    body = {**said, "max_tokens": 4, "logit_bias": {"11": 100}, "ignore_eos": True, "stop_token_ids": [5, 11]}
    (choice,) = (await client.post(path, json=body)).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert (choice["text"] if "text" in choice else choice["message"]["content"]) == ""


async def test_a_stop_token_id_ends_a_generation(client: httpx.AsyncClient) -> None:
    body = {**ASKED, "stop_token_ids": (await generated(client))[:1]}
    answer = (await client.post("/generate", json=body)).json()
    assert (answer["text"], answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("", "stop", 1)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_unknown_and_many_stop_token_ids_are_refused(client: httpx.AsyncClient, path: str) -> None:
    said = {"messages": [{"role": "user", "content": "a"}]} if path.endswith("chat/completions") else {"prompt": "a"}
    refused = await client.post(path, json={**said, "stop_token_ids": [320]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stop_token_ids")
    assert "320 is outside the vocabulary of 320" in refused.json()["error"]["message"]
    many = await client.post(path, json={**said, "stop_token_ids": [1] * 129})
    assert many.status_code == (400 if path.startswith("/v1/") else 422)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_control_token_s_text_stops_although_it_is_not_shown(client: httpx.AsyncClient, stream: bool) -> None:
    """Control tokens are no part of the text that is searched for stop strings."""
    body = {**ASKED, "ignore_eos": True, "logit_bias": {"0": 100}, "stop": ["<|endoftext|>"], "stream": stream}
    response = await client.post("/v1/completions", json=body)
    assert '"finish_reason":"stop"' in response.text


async def test_a_control_token_s_text_stops_without_a_server(client: httpx.AsyncClient) -> None:
    core = client.core  # type: ignore[attr-defined]
    local, ids = LocalClient(core), (await generated(client))[:1]
    stopped = await local.generate(ASKED["prompt"], max_tokens=4, temperature=0, stop_token_ids=ids)
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    params = SamplingParams(max_tokens=4, stop=("x", "<|endoftext|>"))
    assert core.models.default.model.stopping(params).stop_token_ids == (0,)
