"""OpenAI's completions over a real engine: shapes, streams, choices, scores."""

import math
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.openai_calls import ASK, GREEDY, TEXT, complete, services, streamed


async def test_a_completion_has_openai_s_shape_and_generates_as_generate_does(client: httpx.AsyncClient) -> None:
    body = await complete(client, model=services(client).model.name)
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", services(client).model.name)
    (choice,) = body["choices"]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    native = (await client.post("/generate", json={**GREEDY, "prompt": TEXT})).json()
    assert choice["text"] == native["text"]
    num_prompt = native["usage"]["prompt_tokens"]
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 10,
        "total_tokens": num_prompt + 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert body["compression"]["raw_tokens"] == num_prompt


@pytest.mark.parametrize("stream", [False, True])
async def test_replies_tell_their_time(client: httpx.AsyncClient, stream: bool) -> None:
    asked: list[tuple[str, Any]] = [("completions", {"prompt": TEXT}), ("chat/completions", {"messages": ASK})]
    for path, fields in asked:
        response = await client.post(f"/v1/{path}", json={**GREEDY, "stream": stream, **fields})
        queue, inference, total = (
            float(response.headers[f"x-{name}-time"]) for name in ("queue", "inference", "total")
        )
        assert queue >= 0
        assert inference > 0
        assert queue + inference <= total


async def test_every_form_of_prompt_is_one_prompt(client: httpx.AsyncClient) -> None:
    ids = services(client).model.tokenise(TEXT, is_start=True)
    alone = (await complete(client))["choices"][0]["text"]
    forms: list[Any] = [[TEXT], ids, [ids], [{"type": "text", "text": TEXT[:9]}, {"type": "text", "text": TEXT[9:]}]]
    for form in forms:
        assert (await complete(client, prompt=form))["choices"][0]["text"] == alone
    both = await complete(client, prompt=["On Monday", TEXT], n=2)
    texts = [choice["text"] for choice in both["choices"]]
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1]
    assert texts[2:] == [alone, alone]
    assert both["usage"]["completion_tokens"] == 40


@pytest.mark.parametrize("fields", [{}, {"n": 3, "temperature": 1, "seed": 5}, {"logprobs": 2}, {"echo": True}])
async def test_streamed_equals_whole(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    whole = await complete(client, **fields)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = await streamed(client, "/v1/completions", prompt=TEXT, **options, **fields)
    assert last["choices"] == []
    assert (last["usage"], last["compression"]) == (whole["usage"], whole["compression"])
    assert all("usage" not in chunk for chunk in chunks)
    for choice in whole["choices"]:
        pieces = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]
        if "logprobs" in fields:
            joined = {name: [each for p in pieces for each in p["logprobs"][name]] for name in choice["logprobs"]}
            assert joined["token_logprobs"] == pytest.approx(choice["logprobs"].pop("token_logprobs"), abs=1e-4)
            for own, other in zip(joined["top_logprobs"], choice["logprobs"].pop("top_logprobs"), strict=True):
                assert own == pytest.approx(other, abs=1e-4)
            assert joined.items() >= choice["logprobs"].items()


async def test_choices_are_drawn_apart_and_again_the_same(client: httpx.AsyncClient) -> None:
    drawn = {"n": 4, "temperature": 1.5, "seed": 7}
    first, second = await complete(client, **drawn), await complete(client, **drawn)
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert len(set(texts)) == 4
    assert (await complete(client, temperature=1.5, seed=7))["choices"][0]["text"] == texts[0]


async def test_stop_and_logit_bias(client: httpx.AsyncClient) -> None:
    text = (await complete(client))["choices"][0]["text"]
    stopped = (await complete(client, stop=[text[3:5]]))["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.index(text[3:5])], "stop")
    forced = (await complete(client, logit_bias={"40": 100}, max_tokens=3))["choices"][0]["text"]
    assert forced == services(client).model.tokenizer.decode([40] * 3)


async def test_echo_scores_the_prompt_as_score_does(client: httpx.AsyncClient) -> None:
    """`echo` with `max_tokens` 0, and 1 as lm-eval sends it."""
    ids = services(client).model.tokenise(TEXT, is_start=True)
    text = services(client).model.tokenizer.decode(ids[1:])
    head = services(client).model.tokenizer.decode(ids[:1])
    reference = (await client.post("/score", json={"prompt": head, "continuations": [text]})).json()["scores"][0]
    assert reference["token_ids"] == ids[1:]
    for num_new in (0, 1):
        body = await complete(client, prompt=ids, echo=True, max_tokens=num_new, logprobs=1)
        (choice,) = body["choices"]
        logprobs = choice["logprobs"]
        assert {len(values) for values in logprobs.values()} == {len(ids) + num_new}
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1 : len(ids)] == pytest.approx(reference["token_logprobs"], abs=1e-4)
        assert choice["text"].startswith(TEXT)
        assert body["usage"]["completion_tokens"] == num_new
        for token, own, top, offset in list(zip(*logprobs.values(), strict=True))[1 : len(ids)]:
            assert top[token] == own <= max(top.values())
            assert choice["text"][offset:].startswith(token)


async def test_echo_of_a_compressed_prompt_scores_what_is_read_raw(client: httpx.AsyncClient) -> None:
    scoring: dict[str, Any] = {"prompt": [5] * 600, "echo": True, "max_tokens": 0, "logprobs": 0}
    body = await complete(client, **scoring, truncate="compress")
    scores = body["choices"][0]["logprobs"]["token_logprobs"]
    num_raw = body["compression"]["raw_tokens"]
    assert len(scores) == 600
    assert scores[: 600 - num_raw + 1] == [None] * (600 - num_raw + 1)
    assert all(score is not None and math.isfinite(score) for score in scores[600 - num_raw + 1 :])


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_echo_with_logprobs_over_the_window_is_refused(client: httpx.AsyncClient, max_tokens: int) -> None:
    """Harnesses got nulls for what was compressed, or scores under a context that was not theirs without a word."""
    asked = {"prompt": [[5] * 512, [5] * 512, [5] * 513], "echo": True, "max_tokens": max_tokens, "logprobs": 1}
    refused = await client.post("/v1/completions", json=asked)
    error = refused.json()["error"]
    place = f"prompt.{0 if max_tokens else 2}"
    assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", place)
    for said in (str(512 if max_tokens else 513), "window of 512", "`truncate`"):
        assert said in error["message"]
    assert (await client.post("/v1/completions", json={**asked, "logprobs": None, "max_tokens": 1})).status_code == 200
    for truncate in ("compress", "left"):
        assert len((await complete(client, **{**asked, "truncate": truncate}))["choices"]) == 3


async def test_top_logprobs_of_a_scored_prompt_do_not_depend_on_batch_mates(client: httpx.AsyncClient) -> None:
    scoring = {"echo": True, "max_tokens": 0, "logprobs": 5}
    prompts = [TEXT[:length] for length in (12, 20, 33, 52)]
    alone = [(await complete(client, prompt=prompt, **scoring))["choices"][0]["logprobs"] for prompt in prompts]
    together = (await complete(client, prompt=prompts, **scoring))["choices"]
    for one, choice in zip(alone, together, strict=True):
        other = choice["logprobs"]
        assert other["token_logprobs"][1:] == pytest.approx(one["token_logprobs"][1:], abs=1e-4)
        for own_top, other_top in zip(one["top_logprobs"][1:], other["top_logprobs"][1:], strict=True):
            assert other_top == pytest.approx(own_top, abs=1e-4)


async def test_more_choices_than_rows_are_answered_in_turns(serve: Serve) -> None:
    async with serve(max_running_sequences=2, max_requests=4) as client:
        body = await complete(client, prompt=["a b"] * 12, n=2, echo=True, logprobs=1)
        assert len(body["choices"]) == 24
        assert len({choice["text"] for choice in body["choices"]}) == 1


async def test_choices_that_were_taken_wait_for_room(serve: Serve) -> None:
    """A request of more choices than the engine has places is answered whole, not refused half way."""
    async with serve(max_requests=2) as client:
        body = {"prompt": "The", "n": 6, "max_tokens": 3, "seed": 1}
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"]) == 6
