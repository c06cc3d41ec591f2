"""Stored summaries among the texts of prompts and messages: order, fusing, contributions."""

import httpx
import pytest

from tests.server.openai_calls import ASK, GREEDY, TEXT, chat, complete, compress, services


async def test_summaries_stand_between_texts(client: httpx.AsyncClient) -> None:
    one, two = await compress(client, "The white cat. " * 9), await compress(client, "The inspector came. " * 7)
    parts = [{"type": "summary", "id": one}, {"type": "summary", "id": two}, {"type": "text", "text": TEXT}]
    native = (await client.post("/generate", json={**GREEDY, "summary_ids": [one, two], "prompt": TEXT})).json()
    body = await complete(client, prompt=parts)
    assert body["choices"][0]["text"] == native["text"]
    assert body["compression"]["summary_vectors"] == native["usage"]["summary_vectors"]
    between = [{"type": "summary", "id": one}, {"type": "text", "text": "A text. " * 9}, *parts[1:]]
    body = await complete(client, prompt=between)
    context = [{"summary_id": one}, {"text": "A text. " * 9}, {"summary_id": two}, {"text": TEXT}]
    native = (await client.post("/generate", json={**GREEDY, "context": context})).json()
    assert body["choices"][0]["text"] == native["text"]
    told = body["compression"]
    assert told["compressed_tokens"] + told["raw_tokens"] == body["usage"]["prompt_tokens"]
    assert (told["segments"], told["cached_segments"]) == (-(-told["compressed_tokens"] // 16), 0)


async def test_summaries_in_messages_condition_the_conversation(client: httpx.AsyncClient) -> None:
    one, two = await compress(client, "The white cat. " * 9), await compress(client, "The inspector came. " * 7)
    content = [
        {"type": "text", "text": "Who "},
        {"type": "summary", "id": one},
        {"type": "summary", "id": two},
        {"type": "text", "text": "counts ships?"},
    ]
    body = await chat(client, messages=[ASK[0], {"role": "user", "content": content}])
    plain = await chat(client)
    assert body["usage"] == plain["usage"]
    assert body["choices"] != plain["choices"]
    ids = services(client).model.tokenise("System: Be short.\n\nUser: Who counts ships?\n\nAssistant:", is_start=True)
    assert body["compression"]["raw_tokens"] == len(ids)


async def test_contributions_are_what_leaving_one_out_costs(client: httpx.AsyncClient) -> None:
    ids = [await compress(client, text) for text in ("The white cat. " * 9, "The inspector came. " * 7)]

    async def logprob(summary_ids: list[str]) -> float:
        head, rest = TEXT[:1], TEXT[1:]
        request = {"summary_ids": summary_ids, "prompt": head, "continuations": [rest]}
        score = (await client.post("/score", json=request)).json()["scores"][0]
        own = services(client).model.tokenise(TEXT, is_start=False)
        assert [*services(client).model.tokenise(head, is_start=False), *score["token_ids"]] == own
        return float(score["logprob"])

    parts = [*({"type": "summary", "id": summary_id} for summary_id in ids), {"type": "text", "text": TEXT}]
    told = (await complete(client, prompt=parts, contributions=True))["compression"]["contributions"]
    whole, without_first, without_second = await logprob(ids), await logprob(ids[1:]), await logprob(ids[:1])
    assert [each["id"] for each in told] == ids
    expected = [whole - without_first, whole - without_second]
    assert [each["logprob"] for each in told] == pytest.approx(expected, abs=1e-3)
    assert (await complete(client, contributions=True))["compression"]["contributions"] == []


async def test_fused_by_distance_the_nearest_stands_last(client: httpx.AsyncClient) -> None:
    near = await compress(client, TEXT)
    far = [await compress(client, text) for text in ("1234567890, 3.14159, x = [i**2]", "東京 Größe naïve " * 3)]
    text = {"type": "text", "text": TEXT}
    for order in ([near, *far], [*far, near], [far[0], near, far[1]]):
        parts = [*({"type": "summary", "id": summary_id} for summary_id in order), text]
        fused = await complete(client, prompt=parts, fuse="distance", contributions=True)
        told = [each["id"] for each in fused["compression"]["contributions"]]
        assert told[-1] == near, "the prompt's own summary is at distance 0"
        given = await complete(
            client, prompt=[*({"type": "summary", "id": summary_id} for summary_id in told), text], contributions=True
        )
        assert given["choices"] == fused["choices"]
        for own, other in zip(*(each["compression"]["contributions"] for each in (given, fused)), strict=True):
            assert own == {"id": other["id"], "logprob": pytest.approx(other["logprob"], abs=1e-3)}
