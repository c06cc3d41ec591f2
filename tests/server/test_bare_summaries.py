"""Summaries without a prompt are gone on from, on every route that is conditioned on them."""

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.tiny import tiny_compressor

TEXT = "The lighthouse keeper wrote one line a day. On Monday: wind from the north, eleven ships, no fog."
GREEDY = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}


async def summary_of(client: httpx.AsyncClient, text: str = TEXT, **options: Any) -> str:
    response = await client.post("/compress", json={"text": text, **options})
    assert response.status_code in (200, 201), response.text
    summary_id: str = response.json()["id"]
    return summary_id


async def answered(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_every_way_to_leave_the_prompt_out_gives_one_answer(client: httpx.AsyncClient) -> None:
    summary = await summary_of(client)
    part = {"summary_id": summary}
    conditions: list[dict[str, Any]] = [
        {"summary_ids": [summary]},
        {"summary_ids": [summary], "prompt": None},
        {"summary_ids": [summary], "prompt": ""},
        {"context": [part]},
        {"context": [part, {"text": ""}]},
    ]
    answers = [await answered(client, "/generate", **condition, **GREEDY) for condition in conditions]
    texts = {answer["text"] for answer in answers}
    assert len(texts) == 1
    assert answers[0]["usage"]["prompt_tokens"] == 0
    assert answers[0]["usage"]["completion_tokens"] == 8
    async with client.stream("POST", "/generate", json={"summary_ids": [summary], "stream": True, **GREEDY}) as stream:
        lines = [line.removeprefix("data: ") async for line in stream.aiter_lines() if line.startswith("data: {")]
    assert "".join(json.loads(line)["text"] for line in lines) in texts


async def test_the_next_server_gives_the_same_answer(serve: Serve) -> None:
    async with serve() as client:
        summary = await summary_of(client)
        first = await answered(client, "/generate", summary_ids=[summary], **GREEDY)
        again = await answered(client, "/generate", summary_ids=[summary], **GREEDY)
    async with serve(prefix_cache_bytes=0) as client:
        other = await answered(client, "/generate", summary_ids=[summary], **GREEDY)
    assert first["text"] == again["text"] == other["text"]


async def test_a_score_is_that_of_what_is_generated(client: httpx.AsyncClient) -> None:
    summary = await summary_of(client)
    prompt = [{"type": "summary", "id": summary}]
    options = {"max_tokens": 4, "temperature": 0, "logprobs": 1}
    completion = (await answered(client, "/v1/completions", prompt=prompt, **options))["choices"][0]
    assert completion["logprobs"]["text_offset"][0] == 0
    generated = await answered(client, "/generate", summary_ids=[summary], max_tokens=4, temperature=0)
    assert generated["text"] == completion["text"]
    scored = await answered(client, "/score", summary_ids=[summary], continuations=["a", completion["text"] or "b"])
    assert [score["index"] for score in scored["scores"]] == [0, 1]
    if scored["scores"][1]["tokens"] == completion["logprobs"]["tokens"]:
        assert scored["scores"][1]["token_logprobs"] == pytest.approx(
            completion["logprobs"]["token_logprobs"], abs=1e-4
        )
    alone = await answered(client, "/score", summary_ids=[summary], continuations=["a"])
    assert alone["scores"][0]["logprob"] == pytest.approx(scored["scores"][0]["logprob"], abs=1e-4)


async def test_completions_of_a_summary(client: httpx.AsyncClient) -> None:
    summary = await summary_of(client)
    prompt = [{"type": "text", "text": "Before it."}, {"type": "summary", "id": summary}]
    plain = await answered(client, "/v1/completions", prompt=prompt, max_tokens=4, temperature=0)
    echoed = await answered(
        client, "/v1/completions", prompt=prompt, max_tokens=4, temperature=0, echo=True, logprobs=1
    )
    choice = echoed["choices"][0]
    assert choice["text"] == "Before it." + plain["choices"][0]["text"]
    num_echoed = len(choice["logprobs"]["tokens"]) - 4
    assert choice["logprobs"]["token_logprobs"][:num_echoed] == [None] * num_echoed
    assert plain["usage"]["prompt_tokens"] == num_echoed


async def test_what_needs_a_prompt_says_so(client: httpx.AsyncClient) -> None:
    first, second = await summary_of(client), await summary_of(client, "Another text, of the white cat.")
    prompt = [{"type": "summary", "id": each} for each in (first, second)]
    refusals = [
        ({"prompt": prompt, "fuse": "distance"}, "fuse", "no summary is nearer"),
        ({"prompt": prompt, "contributions": True}, "contributions", "at least 2 tokens; it has 0"),
        ({"prompt": [{"type": "text", "text": ""}]}, "prompt", "the prompt is empty"),
        ({"prompt": ""}, "prompt", "the prompt is empty"),
    ]
    for body, param, said in refusals:
        response = await client.post("/v1/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert said in response.json()["error"]["message"]
    for path, more in (("/generate", {}), ("/score", {"continuations": ["a"]})):
        empty = await client.post(path, json={"prompt": "", **more})
        assert (empty.status_code, empty.json()["error"]["param"]) == (400, "prompt")
        assert "at least 1 token is needed where no summary stands before it" in empty.json()["error"]["message"]
        nothing = await client.post(path, json=more)
        assert nothing.status_code == 422
        assert "give `prompt`, `summary_ids` or both" in nothing.json()["error"]["message"]


async def test_a_model_that_keeps_the_last_segments_vectors_goes_on_from_them(tmp_path: Any, serve: Serve) -> None:
    tiny_compressor(accumulate_summary=False, max_positions=512).save_pretrained(tmp_path / "rmt")
    async with serve(model=str(tmp_path / "rmt")) as client:
        summary = await summary_of(client)
        answer = await answered(client, "/generate", summary_ids=[summary], **GREEDY)
    assert answer["usage"]["completion_tokens"] == 8
