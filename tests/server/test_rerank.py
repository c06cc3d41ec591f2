"""Reranking and vLLM's form of scores, over a real engine and a real store."""

from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve

PASSAGES = [
    f"{place} The keeper wrote one line a day: wind from the north, {place} ships, no fog. " for place in range(6)
]
QUERY = "How many ships?"


async def rerank(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/rerank", json={"query": QUERY, "documents": PASSAGES, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_the_best_comes_first_and_scores_are_those_of_score(client: httpx.AsyncClient) -> None:
    body = await rerank(client)
    scores = [each["relevance_score"] for each in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(each["index"] for each in body["results"]) == list(range(6))
    for result in body["results"]:
        alone = {"summary_ids": [result["summary_id"]], "prompt": "\n", "continuations": [QUERY]}
        scored = (await client.post("/score", json=alone)).json()
        assert result["relevance_score"] == pytest.approx(scored["scores"][0]["logprob"], abs=1e-4)


async def test_texts_are_stored_and_stored_ones_are_read(client: httpx.AsyncClient) -> None:
    by_text = await rerank(client)
    assert by_text["receipt"]["cache"] == "computed"
    ids = {each["index"]: each["summary_id"] for each in by_text["results"]}
    assert (await client.post("/compress", json={"text": PASSAGES[2]})).json()["id"] == ids[2]
    mixed = [{"summary_id": ids[0]}, {"text": PASSAGES[1]}, *PASSAGES[2:]]
    by_id = await rerank(client, documents=mixed)
    assert by_id["receipt"]["cache"] == "memory"
    for one, other in zip(by_text["results"], by_id["results"], strict=True):
        assert one["index"] == other["index"]
        assert one["relevance_score"] == pytest.approx(other["relevance_score"], abs=1e-4)
    assert by_text["usage"] == by_id["usage"]


async def test_ranking_a_stored_text_leaves_its_life(client: httpx.AsyncClient) -> None:
    stored = (await client.post("/compress", json={"text": PASSAGES[0], "ttl_seconds": 60})).json()
    by_text = await rerank(client, ttl_seconds=600)
    lives = {
        each["index"]: (await client.get(f"/summaries/{each['summary_id']}")).json()["expires_in_seconds"]
        for each in by_text["results"]
    }
    assert stored["id"] in {each["summary_id"] for each in by_text["results"]}
    assert lives.pop(0) <= 60
    assert all(60 < seconds <= 600 for seconds in lives.values())


async def test_top_n_and_documents(client: httpx.AsyncClient) -> None:
    body = await rerank(client, top_n=2, return_documents=True)
    assert len(body["results"]) == 2
    assert all(each["document"]["text"] == PASSAGES[each["index"]] for each in body["results"])
    assert all(each["document"] is None for each in (await rerank(client, top_n=100))["results"])


async def test_fields_of_cohere_that_ask_for_nothing_change_nothing(client: httpx.AsyncClient) -> None:
    plain = await rerank(client)
    body = await rerank(client, rank_fields=["text"], max_tokens_per_doc=None, max_chunks_per_doc=None, user="me")
    assert [each["index"] for each in body["results"]] == [each["index"] for each in plain["results"]]
    refused = await client.post("/rerank", json={"query": QUERY, "documents": PASSAGES, "max_tokens_per_doc": 64})
    assert "documents are read whole" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_other_paths(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={"model": "tiny", "query": QUERY, "documents": PASSAGES, "user": "me"})
    assert response.status_code == 200
    assert float(response.headers["x-queue-time"]) >= 0


async def test_more_passages_than_the_engine_takes_requests(serve: Serve) -> None:
    async with serve(max_requests=3) as client:
        assert len((await rerank(client, documents=[f"{n} {PASSAGES[0]}" for n in range(140)]))["results"]) == 140


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"query": ""}, 422, "query"),
        ({"documents": []}, 422, "documents"),
        ({"documents": ["a", ""]}, 400, "documents.1"),
        ({"documents": [{}]}, 422, "documents.0"),
        ({"documents": [{"summary_id": "0" * 40}]}, 404, "documents.0"),
        ({"documents": ["never stored", {"summary_id": "a"}]}, 404, "documents.1"),
        ({"query": "long " * 600}, 413, "query"),
        ({"top_n": 0}, 422, "top_n"),
        ({"model": "other"}, 404, "model"),
        ({"rank_fields": ["a"]}, 422, "rank_fields.0"),
        ({"max_tokens_per_doc": 64}, 422, "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 1}, 422, "max_chunks_per_doc"),
    ],
)
async def test_bad_requests(client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str) -> None:
    response = await client.post("/rerank", json={"query": QUERY, "documents": PASSAGES[:1], **fields})
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param


async def pairs(client: httpx.AsyncClient, first: Any, second: Any) -> list[float]:
    response = await client.post("/score", json={"model": "tiny", "text_1": first, "text_2": second})
    assert response.status_code == 200, response.text
    assert [each["index"] for each in response.json()["data"]] == list(range(len(response.json()["data"])))
    return [each["score"] for each in response.json()["data"]]


async def test_pairs_have_the_mean_of_what_score_gives(client: httpx.AsyncClient) -> None:
    body = {"prompt": PASSAGES[0], "continuations": [" one", " two and three"]}
    scores = (await client.post("/score", json=body)).json()["scores"]
    expected = [each["logprob"] / len(each["token_ids"]) for each in scores]
    assert await pairs(client, PASSAGES[0], body["continuations"]) == pytest.approx(expected, abs=1e-5)
    assert await pairs(client, PASSAGES[0], " one") == pytest.approx(expected[:1], abs=1e-5)
    crossed = await pairs(client, [PASSAGES[0], PASSAGES[1], PASSAGES[0]], [" one", " one", " two and three"])
    assert [crossed[0], crossed[2]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": "a"},
        {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]},
        {"text_1": ["a", "b"], "text_2": "a"},
        {"text_1": "a", "text_2": "b", "prompt": "c"},
        {"text_1": "a", "text_2": [""]},
        {"prompt": "a"},
    ],
)
async def test_bad_pairs(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.post("/score", json=body)).status_code == 422
