"""An error names the field at fault as the client wrote it, the value and the limit, and repeats no body."""

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve, named

LONG = "word " * 4000
ABSENT = "0" * 40
ASK = {"role": "user", "content": [{"type": "text"}]}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


async def refused(client: httpx.AsyncClient, path: str, body: Any) -> tuple[str | None, str]:
    """The field at fault and the message."""
    content = json.dumps(named(path, body, "tiny"))
    response = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (400, 404, 413, 422), response.text
    error = response.json()["error"]
    assert len(error["message"]) < 300
    return error["param"], error["message"]


VALIDATED = [
    # of a union, the form that the value has
    ("/score", {"text_1": "a", "text_2": ["b"] * 129}, "text_2", "at most 128 items; it has 129"),
    ("/score", {"text_1": [], "text_2": "b"}, "text_1", "at least 1 item; it has 0"),
    ("/score", {"text_1": ["a", 5], "text_2": "b"}, "text_1.1", "valid string, not 5"),
    ("/score", {"text_1": 5, "text_2": "b"}, "text_1", "valid string, not 5"),
    ("/generate", {"prompt": "a", "stop": [""]}, "stop.0", "at least 1 character, not ''"),
    ("/generate", {"prompt": "a", "stop": ["a", 5]}, "stop.1", "valid string, not 5"),
    (COMPLETIONS, {"prompt": [1.5]}, "prompt.0", "valid integer, not 1.5"),
    (COMPLETIONS, {"prompt": [[1], [True]]}, "prompt.1.0", "valid integer, not true"),
    # the tag of a union is no field
    (COMPLETIONS, {"prompt": [{"type": "text"}]}, "prompt.0.text", "Field required"),
    (COMPLETIONS, {"prompt": [{"type": "text", "text": 5}]}, "prompt.0.text", "not 5"),
    (COMPLETIONS, {"prompt": [{"type": "summary", "id": "a", "x": 1}]}, "prompt.0.x", "Extra inputs"),
    (COMPLETIONS, {"prompt": [{"type": "text", "text": "a", "text ": 1}]}, "prompt.0.text ", "Extra inputs"),
    (CHAT, {"messages": [ASK]}, "messages.0.content.0.text", "Field required"),
    (
        COMPLETIONS,
        {"prompt": [{"type": "x" * 500}]},
        "prompt.0.type",
        "one of 'text', 'summary', 'compaction', not 'xxx",
    ),
    (COMPLETIONS, {"prompt": [{"text": "a"}]}, "prompt.0.type", "prompt.0.type: Field required"),
    # names that the client chose
    ("/compress", {"text": "a", "max-tokens": 1}, "max-tokens", "Extra inputs"),
    ("/compress", {"text": "a", "\ud800": 1}, None, r"unpaired surrogate is no character: '\ud800'"),
    ("/compress", {"text": "a", "parent": "\ud800"}, "parent", r"unpaired surrogate is no character: '\ud800'"),
    ("/compress", {"text": "a", "metadata": {"a b": 5}}, "metadata.a b", "valid string, not 5"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"1": "b"}}, "logit_bias.1", "valid number, not 'b'"),
    ("/compress", {"text": "a", "metadata": {"a" * 65: "b"}}, f"metadata.{'a' * 59}…", "64 characters; it has 65"),
    # the value and the limit, in words
    ("/compress", {"text": "a", "metadata": {"a": "x" * 600}}, "metadata.a", "at most 512 characters; it has 600"),
    ("/compress", {"text": "a", "metadata": dict.fromkeys("abcdefghijklmnopq", "")}, "metadata", "16 items; it has 17"),
    ("/compress", {"text": "a", "metadata": None, "parent": ["a"]}, "parent", "valid string, not a list"),
    ("/generate", {"prompt": "a", "temperature": "1"}, "temperature", "valid number, not '1'"),
    ("/generate", {"prompt": "a", "temperature": "1" * 500}, "temperature", f"not '{'1' * 59}…'"),
    ("/generate", {"prompt": "a", "seed": 10**4000}, "seed", f"not 1{'0' * 58}…"),
]


@pytest.mark.parametrize(("path", "body", "param", "said"), VALIDATED)
async def test_what_validation_says(
    client: httpx.AsyncClient, path: str, body: Any, param: str | None, said: str
) -> None:
    named, message = await refused(client, path, body)
    assert named == param, message
    assert said in message
    assert "after validation" not in message


async def test_a_bad_query_is_named(client: httpx.AsyncClient) -> None:
    error = (await client.get("/summaries", params={"limit": "x"})).json()["error"]
    assert (error["param"], error["message"]) == ("limit", "limit: Input should be a valid integer, not 'x'")


async def test_an_unknown_parameter_is_refused_and_named(client: httpx.AsyncClient) -> None:
    """`?ttl=60` where `ttl_seconds` is meant must not store a summary for ever."""
    path = f"/summaries/{'0' * 40}"
    for method, url in (("GET", "/summaries"), ("GET", path), ("PUT", path)):
        response = await client.request(method, url, params={"ttl": 60})
        assert response.status_code == 422, (method, url)
        assert response.json()["error"]["param"] == "ttl"


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"metadata": "{bad"}, "metadata.0", "line 1 column 2"),
        ({"metadata": '{"a": 5}'}, "metadata.0.a", "not 5"),
        ({"ttl_seconds": "x"}, "ttl_seconds", "valid number, not 'x'"),
    ],
)
async def test_a_bad_field_of_an_upload(
    client: httpx.AsyncClient, fields: dict[str, str], param: str, said: str
) -> None:
    """Bad JSON in the field `metadata` was told as of the body."""
    response = await client.post("/compress", files={"file": ("a.txt", b"a")}, data=fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "validation_error", param)
    assert said in error["message"]


async def test_a_plain_field_in_place_of_a_file(client: httpx.AsyncClient) -> None:
    response = await client.post("/compress", files={"file": (None, "a text")})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "file.0")
    assert "should be a file, not a plain field" in error["message"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "\xff"}', "not UTF-8 text: invalid start byte at byte 10"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}", "a number has 5000 digits; the limit is 4300"),
        (b'{"text": }', "Expecting value at character 9"),
    ],
)
async def test_a_body_that_no_parser_reads(client: httpx.AsyncClient, content: bytes, said: str) -> None:
    response = await client.post("/compress", content=content, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_json", None)
    assert said in error["message"]


STORED = {"summary_id": "stored"}
MANY = [STORED] * 10
AT_FAULT = [
    ("/generate", {"context": [{"summary_id": ABSENT}, {"text": "a"}]}, "context"),
    ("/score", {"context": [{"summary_id": ABSENT}, {"text": "a"}], "continuations": ["b"]}, "context"),
    ("/generate", {"summary_ids": [ABSENT], "prompt": "a"}, "summary_ids"),
    ("/generate", {"context": [*MANY, {"text": "a"}]}, "context"),
    ("/generate", {"summary_ids": ["stored"] * 10, "prompt": "a"}, "summary_ids"),
    ("/generate", {"prompt": LONG}, "prompt"),
    ("/generate", {"prompt": "a", "max_tokens": 600}, "max_tokens"),
    ("/generate", {"context": [{"text": ""}]}, "context"),
    ("/generate", {"prompt": ""}, "prompt"),
    ("/score", {"summary_ids": ["stored"] * 10, "prompt": "a", "continuations": ["b"]}, "summary_ids"),
    ("/score", {"context": [*MANY, {"text": "a"}], "continuations": ["b"]}, "context"),
    ("/score", {"prompt": LONG, "continuations": ["b"]}, "prompt"),
    ("/score", {"prompt": "a", "continuations": ["b", LONG]}, "continuations.1"),
    ("/score", {"text_1": LONG, "text_2": ["a"]}, "text_1"),
    ("/score", {"text_1": ["a", LONG], "text_2": ["a", "b"]}, "text_1.1"),
    ("/score", {"text_1": "a", "text_2": LONG}, "text_2"),
    ("/score", {"text_1": ["a"], "text_2": ["a", LONG]}, "text_2.1"),
    (COMPLETIONS, {"prompt": ["a", ""]}, "prompt.1"),
    (COMPLETIONS, {"prompt": [[1], [99999]]}, "prompt.1"),
    (COMPLETIONS, {"prompt": [1, 99999]}, "prompt"),
    (COMPLETIONS, {"prompt": ""}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", LONG], "truncate": "error"}, "prompt.1"),
    (COMPLETIONS, {"prompt": [{"type": "summary", "id": ABSENT}, {"type": "text", "text": "a"}]}, "prompt"),
    ("/rerank", {"query": "a", "documents": [STORED, {"summary_id": ABSENT}, STORED]}, "documents.1"),
    ("/rerank", {"query": LONG, "documents": [STORED]}, "query"),
]


@pytest.mark.parametrize(("path", "body", "param"), AT_FAULT)
async def test_the_field_at_fault(serve: Serve, path: str, body: Any, param: str) -> None:
    async with serve() as client:
        stored = (await client.post("/compress", json={"text": "word " * 150})).json()["id"]
        named, message = await refused(client, path, json.loads(json.dumps(body).replace('"stored"', f'"{stored}"')))
    assert named == param, message
