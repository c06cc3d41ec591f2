"""OpenAI's chat completions over a real engine: shapes, templates, streams."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx

from server.engine.protocol import Prompt, SamplingParams, TokenEvent
from tests.server.openai_calls import ASK, chat, complete, services, streamed


async def test_chat_has_openai_s_shape(client: httpx.AsyncClient) -> None:
    body = await chat(client, logprobs=True, top_logprobs=2)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    said = choice["message"]["content"]
    assert choice["message"] == {"role": "assistant", "content": said, "refusal": None, "annotations": []}
    rendered = "System: Be short.\n\nUser: Who counts ships?\n\nAssistant:"
    completed = (await complete(client, prompt=rendered))["choices"][0]["text"]
    assert said == completed.removeprefix(" ")
    scores = choice["logprobs"]["content"]
    assert len(scores) == 10
    for score in scores:
        raw = "".join(f"\\x{byte:02x}" for byte in score["bytes"])
        assert score["token"] in (bytes(score["bytes"]).decode(errors="replace"), f"bytes:{raw}")
        assert [top["logprob"] for top in score["top_logprobs"]] == sorted(
            (top["logprob"] for top in score["top_logprobs"]), reverse=True
        )
        assert score["top_logprobs"][0]["token"] == score["token"]  # greedy


async def test_a_chat_streamed_equals_whole(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 3, "logprobs": True}
    whole = await chat(client, **fields)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = await streamed(client, "/v1/chat/completions", messages=ASK, **options, **fields)
    assert (last["usage"], last["compression"], last["choices"]) == (whole["usage"], whole["compression"], [])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for choice in whole["choices"]:
        first, *pieces = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert pieces[-1]["delta"] == {}
        assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        assert "".join(piece["delta"]["content"] for piece in pieces[:-1]) == choice["message"]["content"]
        tokens = [token["token"] for piece in pieces[:-1] for token in piece["logprobs"]["content"]]
        assert tokens == [token["token"] for token in choice["logprobs"]["content"]]


async def test_the_plain_template_stops_where_another_would_speak(client: httpx.AsyncClient) -> None:
    newline, user = (services(client).model.tokenise(text, is_start=False) for text in ("\n\n", "User:"))
    ids = [*newline, *user]
    model = services(client).model

    async def said(prompt: Prompt, params: SamplingParams, **_: Any) -> AsyncGenerator[TokenEvent]:
        assert params.stop == ("\n\nSystem:", "\n\nUser:", "\n\nAssistant:")
        yield TokenEvent(ids[0], "", 0.0, "stop")

    services(client).decoder.generate = said
    answer = await chat(client)
    assert model.tokenizer.decode(ids) == "\n\nUser:"
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_the_tokenizer_s_own_template_is_used(client: httpx.AsyncClient) -> None:
    tokenizer = services(client).model.tokenizer
    assert (await client.get("/info")).json()["model"]["has_chat_template"] is False
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not so') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    try:
        assert (await client.get("/info")).json()["model"]["has_chat_template"] is True
        answer = await chat(client)
        plain = await complete(client, prompt="<system>Be short.<user>Who counts ships?<assistant>")
        assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
        refused = await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "no"}]})
        assert refused.status_code == 400
        assert "not so" in refused.json()["error"]["message"]
    finally:
        tokenizer.chat_template = None


async def test_fields_that_ask_for_nothing_change_nothing(client: httpx.AsyncClient) -> None:
    plain = (await chat(client))["choices"]
    harmless: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "functions": [],
        "function_call": "none",
        "modalities": ["text"],
        "verbosity": "low",
        "reasoning_effort": "minimal",
        "prompt_cache_key": "a",
        "safety_identifier": "b",
        "top_k": -1,
    }
    assert (await chat(client, **harmless))["choices"] == plain
    assert (await chat(client, **dict.fromkeys(harmless)))["choices"] == plain


async def test_without_a_limit_an_answer_goes_on_until_the_window_is_full(client: httpx.AsyncClient) -> None:
    """It was cut off after 128 tokens, which no client had asked for."""
    unending = {"max_tokens": None, "max_completion_tokens": None, "ignore_eos": True}
    body = await chat(client, **unending)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 512
    long = [{"role": "user", "content": "The keeper wrote one line a day. " * 60}]
    compressed = await chat(client, messages=long, **unending)
    read = compressed["compression"]
    assert read["compressed_tokens"] > 0
    assert read["raw_tokens"] + read["summary_vectors"] + compressed["usage"]["completion_tokens"] == 512


async def test_what_clients_send_back_is_understood(client: httpx.AsyncClient) -> None:
    """An assistant's message as the client dumped it, and OpenAI's fields that change nothing."""
    said = (await chat(client, user="me", store=False, metadata={"a": "b"}, n=1, seed=None, stop=None))["choices"][0]
    dumped = {**said["message"], "audio": None, "function_call": None, "tool_calls": None}
    again = await chat(client, messages=[*ASK, dumped, {"role": "user", "content": "And?", "name": "me"}])
    assert again["usage"]["prompt_tokens"] > 0
    assert (await complete(client, user="me", best_of=1, suffix=None, max_tokens=None))["usage"][
        "completion_tokens"
    ] == 16
