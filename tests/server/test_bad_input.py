"""Bad input gets a clear error in OpenAI's envelope, never a 500, and changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve, named

LONG = "word " * 4000
ABSENT = "0" * 40


async def post(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    content = json.dumps(named(path, body, "tiny"))
    return await client.post(path, content=content, headers={"content-type": "application/json"})


CASES = [
    ("/compress", {"text": ""}, 400, "invalid_request", "0 tokens"),
    ("/compress", {"token_ids": []}, 400, "invalid_request", "0 tokens"),
    ("/generate", {"prompt": "a", "max_tokens": 1_000_001}, 422, "validation_error", "1000000, not 1000001"),
    ("/rerank", {"query": "", "documents": ["a"]}, 422, "validation_error", "at least 1 character, not ''"),
    ("/rerank", {"query": "a", "documents": [{}]}, 422, "validation_error", "one of a `text`, a `summary_id` and"),
    ("/rerank", {"query": "a", "documents": [1]}, 422, "validation_error", "documents.0"),
    ("/v1/completions", {"prompt": [{"type": "summary"}]}, 400, "validation_error", "id: Field required"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "validation_error",
        "'text', 'summary'",
    ),
    ("/compress", {"token_ids": [1, 320]}, 400, "invalid_request", "320 is outside the vocabulary of 320"),
    ("/compress", {"token_ids": [-1]}, 400, "invalid_request", "-1 is outside the vocabulary of 320"),
    ("/compress", {"token_ids": [2**80]}, 400, "invalid_request", "outside the vocabulary"),
    ("/compress", {}, 422, "validation_error", "either `text` or `token_ids`"),
    ("/compress", {"text": "a", "token_ids": [1]}, 422, "validation_error", "either `text` or `token_ids`"),
    ("/compress", {"text": "a", "colour": 1}, 422, "validation_error", "colour"),
    ("/compress", {"text": "a \ud800"}, 422, "validation_error", "unpaired surrogate at character 2"),
    ("/compress", {"text": "a", "ttl_seconds": 0}, 422, "validation_error", "ttl_seconds"),
    ("/compress", {"text": "a", "ttl_seconds": float("nan")}, 422, "validation_error", "ttl_seconds"),
    ("/compress", {"text": "a", "metadata": {"k": 1}}, 422, "validation_error", "metadata.k"),
    ("/compress", {"text": "a", "metadata": {"k": "\udfff"}}, 422, "validation_error", "metadata.k"),
    ("/compress", {"text": "a", "parent": ABSENT}, 404, "summary_not_found", ABSENT),
    ("/compress", {"text": "a", "parent": ""}, 404, "summary_not_found", "''"),
    ("/compress", {"text": LONG}, 413, "context_length_exceeded", "512 positions"),
    ("/compress", [], 422, "validation_error", "JSON object"),
    ("/generate", {}, 422, "validation_error", "`prompt`"),
    ("/generate", {"prompt": "a", "context": [{"text": "b"}]}, 422, "validation_error", "either `context`"),
    ("/generate", {"context": []}, 422, "validation_error", "context"),
    ("/generate", {"prompt": "a", "max_tokens": True}, 422, "validation_error", "max_tokens"),
    ("/generate", {"prompt": "a", "max_tokens": "2"}, 422, "validation_error", "max_tokens"),
    ("/generate", {"prompt": "a", "max_tokens": 10**30}, 422, "validation_error", "max_tokens"),
    ("/compress", {"token_ids": ["1", True, 2.0]}, 422, "validation_error", "token_ids.0"),
    ("/generate", {"context": [{}]}, 422, "validation_error", "context.0"),
    ("/generate", {"context": [{"text": "a", "summary_id": "b"}]}, 422, "validation_error", "context.0"),
    ("/generate", {"prompt": "a", "summary_ids": [ABSENT]}, 404, "summary_not_found", ABSENT),
    ("/generate", {"prompt": "a", "summary_ids": ["../../x"]}, 404, "summary_not_found", "../../x"),
    ("/generate", {"prompt": "a", "summary_ids": ["x" * 65]}, 422, "validation_error", "summary_ids.0"),
    ("/generate", {"prompt": "a", "summary_ids": [ABSENT] * 65}, 422, "validation_error", "64"),
    ("/generate", {"prompt": "a", "max_tokens": 0}, 422, "validation_error", "max_tokens"),
    ("/generate", {"prompt": "a", "max_tokens": 600}, 413, "context_length_exceeded", "600 new ones"),
    ("/generate", {"prompt": LONG}, 413, "context_length_exceeded", "the window has 512"),
    ("/generate", {"prompt": "a " * 3000}, 413, "context_length_exceeded", "room for 0 tokens"),
    ("/generate", {"prompt": "a", "temperature": -1}, 422, "validation_error", "temperature"),
    ("/generate", {"prompt": "a", "temperature": float("inf")}, 422, "validation_error", "temperature"),
    ("/generate", {"prompt": "a", "top_p": 0}, 422, "validation_error", "top_p"),
    ("/generate", {"prompt": "a", "top_k": -2}, 422, "validation_error", "top_k"),
    ("/generate", {"prompt": "a", "model": "gpt-4"}, 404, "model_not_found", "gpt-4"),
    ("/generate", {"prompt": "a", "seed": 2**63}, 422, "validation_error", "seed"),
    ("/generate", {"prompt": "a", "stop": ""}, 422, "validation_error", "stop"),
    ("/generate", {"prompt": "a", "stop": ["x"] * 17}, 422, "validation_error", "at most 16 items; it has 17"),
    ("/generate", {"prompt": "a", "stop": ["\ud800"]}, 422, "validation_error", "stop"),
    ("/score", {"prompt": "a", "continuations": []}, 422, "validation_error", "continuations"),
    ("/score", {"prompt": "a", "continuations": ["b", ""]}, 422, "validation_error", "continuations.1"),
    ("/score", {"prompt": "a", "continuations": [LONG]}, 413, "context_length_exceeded", "continuations.0 has"),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "said"), CASES)
async def test_bad_bodies(client: httpx.AsyncClient, path: str, body: Any, status: int, code: str, said: str) -> None:
    response = await post(client, path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert said in error["message"]
    assert not any(phrase in error["message"] for phrase in ("function-after", "Value error"))


async def test_without_a_prompt_nothing_says_what_to_expand(client: httpx.AsyncClient) -> None:
    summary = (await client.post("/compress", json={"text": "a b c"})).json()["id"]
    for body in ({"expand": {"segments": 1}}, {"prompt": "", "expand": {"segments": 1}}):
        response = await client.post("/generate", json={"summary_ids": [summary], **body})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "expand")
        assert "speaks of no segment" in response.json()["error"]["message"]


async def test_too_many_summaries_for_the_window(client: httpx.AsyncClient) -> None:
    summary = (await client.post("/compress", json={"text": "word " * 150})).json()
    response = await client.post("/generate", json={"summary_ids": [summary["id"]] * 10, "prompt": "a"})
    assert response.status_code == 413
    assert f"{summary['vectors'] * 10} summary vectors" in response.json()["error"]["message"]


@pytest.mark.parametrize(("content", "status"), [(b"{", 400), (b"\xff\xfe", 400), (b"", 422), (b'{"text": "a"}', 422)])
async def test_what_is_not_json(client: httpx.AsyncClient, content: bytes, status: int) -> None:
    """The last is JSON under curl's default content type."""
    kind = "application/x-www-form-urlencoded" if status == 422 else "application/json"
    response = await client.post("/compress", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert "JSON" in response.json()["error"]["message"]


async def test_unknown_paths_and_methods(client: httpx.AsyncClient) -> None:
    missing, wrong = await client.get("/nothing/here"), await client.put("/generate")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert "GET /nothing/here" in missing.json()["error"]["message"]
    assert wrong.json()["error"]["code"] == "method_not_allowed"


async def test_a_body_over_the_limit_announced_or_not(serve: Serve) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with serve(max_body_bytes=1000) as client:
        for content in (b"x" * 2000, in_chunks()):
            response = await client.post("/compress", content=content, headers={"content-type": "application/json"})
            assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
            assert "1000 bytes" in response.json()["error"]["message"]


async def test_refusals_store_nothing(client: httpx.AsyncClient) -> None:
    for path, body, *_ in CASES:
        await post(client, path, body)
    computed = client.core.metrics.summary_vectors._value.get()  # type: ignore[attr-defined]
    assert computed == 0


@pytest.mark.parametrize("rest", [[{"summary_id": ABSENT}, {"text": "b"}], [{"summary_id": "stored"}, {"text": LONG}]])
async def test_a_refused_context_compresses_none_of_its_texts(client: httpx.AsyncClient, rest: list[Any]) -> None:
    stored = (await client.post("/compress", json={"text": "a b c"})).json()["id"]
    parts = [{"summary_id": stored} if part == {"summary_id": "stored"} else part for part in rest]
    refused = await client.post("/generate", json={"context": [{"text": "A text of its own."}, *parts]})
    assert refused.status_code in (404, 413)
    assert (await client.post("/compress", json={"text": "A text of its own."})).status_code == 201


async def test_an_overloaded_server_says_when_to_come_back(serve: Serve) -> None:
    async with serve(max_requests=2, max_running_sequences=1) as client:
        request = {"prompt": "The", "max_tokens": 200, "temperature": 0}
        responses = await asyncio.gather(*(client.post("/generate", json=request) for _ in range(12)))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 429}
    refused = next(response for response in responses if response.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "overloaded"


async def test_a_full_queue_is_ready(serve: Serve) -> None:
    async with serve(max_requests=1) as client:
        running = asyncio.create_task(client.post("/generate", json={"prompt": "The", "max_tokens": 300}))
        seen = set()
        while not running.done():
            response = await client.get("/readyz")
            seen.add((response.status_code, response.json()["checks"]["queue"]))
        assert (200, "full") in seen
        assert {status for status, _ in seen} == {200}
        assert (await client.get("/readyz")).status_code == 200


async def test_an_unreachable_store_is_503_and_not_ready(serve: Serve) -> None:
    async with serve(store="redis://127.0.0.1:1/0") as client:
        response = await client.post("/compress", json={"text": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["store"]) == (503, "unreachable")
        assert [(await client.head(path)).status_code for path in ("/health", "/readyz", "/livez")] == [503, 503, 200]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/generate", json={"prompt": "a", "max_tokens": 2})).status_code == 200
