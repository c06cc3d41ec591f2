"""What a request may say, and what it may cost: nulls, parameters, statuses, bodies of millions of faults."""

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError

from server.http.answers.errors import CLIENT
from server.http.routing import LARGE_BODY
from tests.server.conftest import Serve

TEXT = "The keeper wrote one line a day."


async def posted(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await client.post(path, json=body)


async def test_null_is_as_if_it_were_not_there(client: httpx.AsyncClient) -> None:
    document = {"text": TEXT, "token_ids": None, "stream": None, "keep_text": None, "measure": None, "documents": None}
    made = await posted(client, "/compress", **document)
    assert made.status_code == 201, made.text
    asked = {"prompt": "The", "summary_ids": None, "stream": None, "max_tokens": None, "expand": None, "seed": None}
    assert (await posted(client, "/generate", **asked)).status_code == 200
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello", "name": None}], "max_tokens": 1}
    optional = dict.fromkeys(("truncate", "fuse", "contributions", "stop", "n", "stream_options", "temperature"))
    assert (await posted(client, "/v1/chat/completions", **chat, **optional)).status_code == 200
    # what has to be there is missed by its name, and what nobody knows is refused
    assert (await posted(client, "/v1/chat/completions", messages=None)).json()["error"]["param"] == "messages"
    assert (await posted(client, "/generate", prompt="a", nothing=None)).json()["error"]["param"] == "nothing"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info"),
        ("GET", "/summaries/0"),
        ("GET", "/summaries/0/segments"),
        ("DELETE", "/summaries/0"),
        ("POST", "/compress"),
        ("POST", "/generate"),
        ("GET", "/v1/models"),
        ("GET", "/readyz"),
    ],
)
async def test_unknown_parameters_of_the_url_are_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    refused = await client.request(
        method, f"{path}?ttl=60", json={"text": TEXT, "prompt": "a"} if method == "POST" else None
    )
    assert refused.status_code == (400 if path.startswith("/v1/") else 422)
    assert refused.json()["error"]["param"] == "ttl"


async def test_openai_s_routes_answer_openai_s_statuses(client: httpx.AsyncClient) -> None:
    """Their clients raise BadRequestError at 400, and tell other statuses apart."""
    long = {"prompt": TEXT * 1000, "truncate": "error"}
    assert (await posted(client, "/v1/completions", **long)).status_code == 400
    assert (await posted(client, "/v1/completions", prompt="a", top_p=2)).status_code == 400
    assert (await posted(client, "/v1/chat/completions")).status_code == 400
    assert (await posted(client, "/generate", prompt="a", top_p=2)).status_code == 422
    assert (await client.get("/v1/models/")).json() == (await client.get("/v1/models")).json()


async def test_scores_have_vllm_s_address_too(client: httpx.AsyncClient) -> None:
    body = {"text_1": "no", "text_2": [" ships", " fog"]}
    answers = [(await posted(client, path, **body)).json()["data"] for path in ("/score", "/v1/score")]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/compress", {"token_ids": ["x"] * 300_000}, 422),
        ("/compress", {"token_ids": [-1] * 300_000}, 400),
        ("/compress", {"documents": [{"text": 1}] * 100_000}, 422),
        ("/detokenize", {"tokens": [0.5] * 300_000}, 422),
        ("/generate", {"prompt": "a", "stop": [""] * 300_000}, 422),
        ("/v1/completions", {"prompt": ["a", *[1] * 300_000]}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "x"}] * 100_000}, 400),
        ("/rerank", {"query": "a", "documents": [1] * 300_000}, 422),
    ],
)
async def test_of_many_faults_the_first_is_told(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pydantic would gather them all: 16 MB of them took gigabytes, and the process with it."""
    counts: list[int] = []
    original = RequestValidationError.__init__

    def counted(self: Any, given: Any, **more: Any) -> None:
        counts.append(len(given))
        original(self, given, **more)

    monkeypatch.setattr(RequestValidationError, "__init__", counted)
    assert (await posted(client, path, **body)).status_code == status
    assert sum(counts) <= 2


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"prompt": TEXT * 50_000}, "prompt"),
        ("/score", {"prompt": TEXT * 50_000, "continuations": ["a"]}, "prompt"),
        ("/score", {"prompt": "a", "continuations": [TEXT * 50_000]}, "continuations.0"),
        ("/tokenize", {"text": TEXT * 50_000}, "text"),
    ],
)
async def test_what_cannot_fit_is_not_tokenised_whole(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = client.services.model  # type: ignore[attr-defined]
    lengths: list[int] = []
    tokenise = type(model).tokenise

    def counted(self: Any, text: str, **how: Any) -> list[int]:
        lengths.append(len(text))
        ids: list[int] = tokenise(self, text, **how)
        return ids

    monkeypatch.setattr(type(model), "tokenise", counted)
    refused = await posted(client, path, **body)
    assert refused.status_code in (413, 422)
    assert refused.json()["error"]["param"] == param
    assert max(lengths, default=0) <= 16 * model.window


async def test_a_large_body_says_as_much_as_a_small_one(client: httpx.AsyncClient) -> None:
    made = [(await posted(client, "/compress", token_ids=[7] * number)).json() for number in (100, 400_000)]
    assert made[0]["tokens"] == 100
    assert "400000 tokens" in made[1]["error"]["message"]
    broken = (json.dumps({"text": TEXT + " " * LARGE_BODY})[:-1]).encode()
    refused = await client.post("/tokenize", content=broken, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("item", [b"[],", b'"",', b"1,"])
async def test_the_largest_bodies_let_others_have_their_turns(client: httpx.AsyncClient, item: bytes) -> None:
    """16 MB of empty lists held the event loop for four seconds, and so every other request."""
    body = b'{"token_ids": [' + item * (15_000_000 // len(item)) + item[:-1] + b"]}"
    turns: list[float] = []

    async def take_turns() -> None:
        while True:
            before = time.thread_time()  # of the loop's thread: how busy the machine is does not matter
            await asyncio.sleep(0.001)
            turns.append(time.thread_time() - before)

    watching = asyncio.create_task(take_turns())
    refused = await client.post("/compress", content=body, headers={"Content-Type": "application/json"})
    watching.cancel()
    assert (refused.status_code, refused.json()["error"]["type"]) in ((413, CLIENT), (422, CLIENT))
    assert max(turns) < 0.1


async def test_a_full_queue_is_no_fault_and_a_stop_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as client:
        engine = client.services.decoder  # type: ignore[attr-defined]
        monkeypatch.setattr(type(engine), "is_full", property(lambda _: True))
        busy = await client.get("/readyz")
        assert (busy.status_code, busy.json()["checks"]["queue"]) == (200, "full")
        # before anything is looked up for it: under a crowd, refusing is most of the work
        unknown = {"type": "summary", "id": "0" * 40}
        for path, body in (
            ("/generate", {"prompt": "a", "summary_ids": ["0" * 40]}),
            ("/score", {"prompt": "a", "summary_ids": ["0" * 40], "continuations": ["b"]}),
            ("/v1/completions", {"prompt": [unknown]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [unknown]}]}),
            ("/v1/responses", {"model": client.services.model.name, "input": "a", "previous_response_id": "resp_0"}),  # type: ignore[attr-defined]
        ):
            refused = await client.post(path, json=body)
            assert (path, refused.status_code, "retry-after" in refused.headers) == (path, 429, True)
        client.core.is_stopping.set()  # type: ignore[attr-defined]
        stopping = await client.get("/readyz")
        assert (stopping.status_code, stopping.json()["checks"]["server"]) == (503, "stopping")


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/chat/completions", {"truncate": "error"}), ("/v1/responses", {}), ("/v1/responses", {"instructions": TEXT})],
)
async def test_a_conversation_that_must_fit_is_refused_by_its_beginning(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    (model,) = (await client.get("/v1/models")).json()["data"]
    name = "messages" if "chat" in path else "input"
    said = [{"role": "user", "content": "a b " * 250_000}]
    refused = await posted(client, path, model=model["id"], **{name: said}, **fields)
    assert refused.status_code == 400
    assert re.search(r"\d{7} characters, and its first \d+ are \d+ tokens", refused.json()["error"]["message"])
    assert refused.json()["error"]["param"] == name
