"""What OpenAI's endpoints refuse, and what fails on the way."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from server.engine.protocol import Prompt, SamplingParams, TokenEvent
from server.errors import EngineFailed
from tests.server.openai_calls import ABSENT, ASK, services, streamed

BAD = [
    ("completions", {}, 400, "validation_error", "prompt"),
    ("completions", {"prompt": ""}, 400, "invalid_request", "empty"),
    ("completions", {"prompt": []}, 400, "validation_error", "at least 1 item"),
    ("completions", {"prompt": [[]]}, 400, "invalid_request", "empty"),
    ("completions", {"prompt": [1, 320]}, 400, "invalid_request", "320 is outside the vocabulary"),
    ("completions", {"prompt": [1, "a"]}, 400, "validation_error", "prompt"),
    ("completions", {"prompt": ["a"] * 129}, 400, "validation_error", "128"),
    ("completions", {"prompt": ["a"] * 20, "n": 16}, 400, "validation_error", "20 prompts of 16 choices"),
    ("completions", {"prompt": "a", "n": 17}, 400, "validation_error", "n:"),
    ("completions", {"prompt": "a", "n": 0}, 400, "validation_error", "n:"),
    ("completions", {"prompt": "a", "logprobs": "2"}, 400, "validation_error", "logprobs"),
    ("completions", {"prompt": "a", "logprobs": True}, 400, "validation_error", "logprobs"),
    ("completions", {"prompt": "a", "logprobs": 21}, 400, "validation_error", "logprobs"),
    ("completions", {"prompt": "a", "max_tokens": 0}, 400, "validation_error", "echo"),
    ("completions", {"prompt": "a", "best_of": 2}, 400, "validation_error", "best_of"),
    ("completions", {"prompt": "a", "suffix": "b"}, 400, "validation_error", "suffix"),
    ("completions", {"prompt": "a", "tools": []}, 400, "validation_error", "tools"),
    ("completions", {"prompt": "a", "model": "gpt-4"}, 404, "model_not_found", "gpt-4"),
    ("completions", {"prompt": "a", "logit_bias": {"320": 1}}, 400, "invalid_request", "320"),
    ("completions", {"prompt": "a", "logit_bias": {"x": 1}}, 400, "validation_error", "logit_bias"),
    ("completions", {"prompt": "a", "logit_bias": {"1": 101}}, 400, "validation_error", "logit_bias"),
    ("completions", {"prompt": "a", "stream_options": {}}, 400, "validation_error", "stream_options"),
    ("completions", {"prompt": "a", "truncate": "right"}, 400, "validation_error", "truncate"),
    ("completions", {"prompt": "a", "raw_tokens": 0}, 400, "validation_error", "raw_tokens"),
    ("completions", {"prompt": ["a", "b"], "contributions": True}, 400, "validation_error", "contributions"),
    ("completions", {"prompt": [{"type": "summary", "id": ABSENT}]}, 404, "summary_not_found", ABSENT),
    ("completions", {"prompt": [{"type": "image_url"}]}, 400, "validation_error", "image_url"),
    ("completions", {"prompt": "a", "stop": ["x"] * 17}, 400, "validation_error", "16"),
    ("chat/completions", {}, 400, "validation_error", "messages"),
    ("chat/completions", {"messages": []}, 400, "validation_error", "messages"),
    ("chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, 400, "validation_error", "messages.0.role"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "validation_error", "`content` is missing"),
    ("chat/completions", {"messages": ASK, "top_logprobs": 2}, 400, "validation_error", "top_logprobs"),
    ("chat/completions", {"messages": ASK, "logprobs": 2}, 400, "validation_error", "logprobs"),
    ("chat/completions", {"messages": ASK, "max_tokens": 2, "max_completion_tokens": 2}, 400, "validation_error", "ei"),
    ("chat/completions", {"messages": ASK, "response_format": {"type": "json_object"}}, 400, "validation_error", "re"),
    ("chat/completions", {"messages": ASK, "tools": [{}]}, 400, "validation_error", "tools"),
    ("chat/completions", {"messages": ASK, "tool_choice": "required"}, 400, "validation_error", "tool_choice"),
    ("chat/completions", {"messages": ASK, "functions": [{}]}, 400, "validation_error", "functions"),
    ("chat/completions", {"messages": ASK, "function_call": {"name": "a"}}, 400, "validation_error", "function_call"),
    ("chat/completions", {"messages": ASK, "modalities": ["text", "audio"]}, 400, "validation_error", "modalities.1"),
    ("chat/completions", {"messages": ASK, "verbosity": "none"}, 400, "validation_error", "verbosity"),
    ("chat/completions", {"messages": ASK, "reasoning_effort": 1}, 400, "validation_error", "reasoning_effort"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "summary", "id": ABSENT}]}]},
        404,
        "summary_not_found",
        ABSENT,
    ),
    ("chat/completions", {"messages": ASK, "max_tokens": 600}, 400, "context_length_exceeded", "600 new tokens"),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "said"), BAD)
async def test_bad_bodies(client: httpx.AsyncClient, path: str, body: Any, status: int, code: str, said: str) -> None:
    response = await client.post(f"/v1/{path}", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert said in error["message"]


@pytest.mark.parametrize(("path", "body"), [("completions", {"prompt": "a"}), ("chat/completions", {"messages": ASK})])
@pytest.mark.parametrize("model", [{}, {"model": None}])
async def test_a_body_names_its_model(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], model: dict[str, Any]
) -> None:
    """As at OpenAI; without one it was answered by the model that is served."""
    headers = {"content-type": "application/json"}
    refused = await client.post(f"/v1/{path}", content=json.dumps(body | model), headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


async def test_fields_that_do_not_go_together_are_named(client: httpx.AsyncClient) -> None:
    for field, value in (("best_of", 2), ("stream_options", {}), ("max_tokens", 0)):
        response = await client.post("/v1/completions", json={"prompt": "a", field: value})
        assert response.json()["error"]["param"] == field


async def test_an_error_inside_a_stream_is_an_event(client: httpx.AsyncClient) -> None:
    async def failing(prompt: Prompt, params: SamplingParams, **_: Any) -> AsyncGenerator[TokenEvent]:
        yield TokenEvent(5, "a", -1.0, None)
        raise EngineFailed("the forward pass failed")

    services(client).decoder.generate = failing
    for path, asked in (("completions", {"prompt": "a"}), ("chat/completions", {"messages": ASK})):
        events = await streamed(client, f"/v1/{path}", **asked)
        assert events[-1]["error"]["code"] == "engine_failed"
        whole = await client.post(f"/v1/{path}", json=asked)
        assert (whole.status_code, whole.json()["error"]["code"]) == (424, "engine_failed")


async def test_a_failed_choice_ends_the_others(client: httpx.AsyncClient) -> None:
    ended = []

    async def one_fails(prompt: Prompt, params: SamplingParams, **_: Any) -> AsyncGenerator[TokenEvent]:
        try:
            if params.seed == 1:
                raise EngineFailed("the forward pass failed")
            while True:
                yield TokenEvent(5, "a", -1.0, None)
                await asyncio.sleep(0.001)
        finally:
            ended.append(params.seed)

    services(client).decoder.generate = one_fails
    response = await client.post("/v1/completions", json={"prompt": "a", "n": 3, "seed": 0})
    assert response.status_code == 424
    assert sorted(ended) == [0, 1, 2]
