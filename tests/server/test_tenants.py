"""What two tenants with keys have apart: ids and what is cached, jobs and their keys, connections, the audit log."""

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from server.http.app import create_app
from server.http.connection import Connection
from tests.http.listening import listening
from tests.server.conftest import Serve
from tests.server.keys import ALL, KEYS, bearer
from tests.server.test_responses import model_of

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 3


async def test_what_another_has_stored_is_computed_again_and_told_as_new(serve: Serve) -> None:
    """By every way that text comes in, and by every figure that tells of what was there."""
    async with serve(api_keys=ALL) as client:
        model = client.services.model.name  # type: ignore[attr-defined]
        long = " ".join(f"Line {number}: {TEXT}" for number in range(12))
        calls: list[tuple[str, dict[str, Any]]] = [
            ("/compress", {"text": TEXT}),
            ("/rerank", {"query": "Who?", "documents": [TEXT]}),
            ("/generate", {"context": [{"text": TEXT}, {"text": "Who?"}], "max_tokens": 1}),
            ("/v1/completions", {"model": model, "prompt": long, "max_tokens": 1}),
            ("/v1/responses/compact", {"model": model, "input": long}),
        ]
        for path, body in calls:
            told = {}
            for name in ("reader", "reader", "writer", "partner"):
                answer = await client.post(path, json=body, headers=bearer(name))
                assert answer.is_success, answer.text
                told.setdefault(name, []).append((answer.status_code, *cached(answer.json())))
            first, again = told["reader"]
            assert told["writer"] == [first], path
            assert told["partner"] == [again], path
            if path != "/generate":
                assert first != again, path


def cached(told: dict[str, Any]) -> tuple[Any, ...]:
    """What an answer says of what was there."""
    usage, compression = told.get("usage", {}), told.get("compression", {})
    return (
        told.get("cached_segments"),
        told.get("receipt", {}).get("cache"),
        compression.get("cached_segments"),
        usage.get("prompt_tokens_details"),
        usage.get("input_tokens_details"),
    )


async def test_jobs_and_their_keys_are_a_tenant_s(serve: Serve) -> None:
    async with serve(api_keys=ALL) as client:
        headers = {name: bearer(name) | {"Idempotency-Key": "the same"} for name in ("reader", "writer", "partner")}
        started = {
            name: await client.post("/jobs/compress", json={"text": text}, headers=headers[name])
            for name, text in (("reader", TEXT), ("writer", "Another text."), ("partner", "Another text."))
        }
        assert {answer.status_code for answer in started.values()} == {202}
        ids = {name: answer.json()["id"] for name, answer in started.items()}
        assert ids["reader"] != ids["writer"] == ids["partner"]
        for name, job in (("writer", "reader"), ("reader", "writer")):
            for method in ("GET", "DELETE"):
                answer = await client.request(method, f"/jobs/{ids[job]}", headers=bearer(name))
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
        assert (await client.get(f"/jobs/{ids['writer']}", headers=bearer("partner"))).status_code == 200


async def test_a_websocket_goes_on_from_its_tenant_s_responses_alone(serve: Serve) -> None:
    async with serve(api_keys=ALL, allowed_hosts="localhost") as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        async with listening(app, http=Connection, ws="websockets-sansio") as port:
            async with httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=bearer("writer")) as http:
                asked = {"model": await model_of(http), "input": "A keeper", "max_output_tokens": 16}
                response = (await http.post("/v1/responses", json=asked)).json()["id"]
            frame = json.dumps(asked | {"type": "response.create", "previous_response_id": response})
            first = {}
            for name in ("reader", "partner"):
                async with connect(f"ws://localhost:{port}/responses", additional_headers=bearer(name)) as socket:
                    await socket.send(frame)
                    first[name] = json.loads(await socket.recv())
            assert first["reader"]["error"]["code"] == "previous_response_not_found"
            assert first["partner"]["type"] == "response.created"


WORDS = ("zqtextqz", "zqtitleqz", "zqshelfqz", "zqkeyqz", "zqpathqz")


async def test_the_audit_log_says_who_did_what_to_which_ids_and_never_a_text_or_a_key(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    text, title, shelf, idempotency, path = WORDS
    with caplog.at_level(logging.DEBUG):
        async with serve(api_keys=ALL) as client:
            model = client.services.model.name  # type: ignore[attr-defined]
            reader = bearer("reader")
            body = {"text": f"A {text}. {TEXT}", "metadata": {title: shelf}}
            made = (await client.post("/compress", json=body, headers=reader)).json()
            asked = {"prompt": text, "summary_ids": [made["id"]], "max_tokens": 2}
            await client.post("/generate", json=asked, headers=reader)
            await client.get(f"/summaries/{made['id']}", headers=bearer("writer"))
            headers = reader | {"Idempotency-Key": idempotency}
            job = (await client.post("/jobs/compress", json={"text": f"{text} {TEXT}"}, headers=headers)).json()
            while (told := (await client.get(f"/jobs/{job['id']}", headers=reader)).json())["status"] != "done":
                await asyncio.sleep(0.01)
            asked = {"model": model, "input": text, "max_output_tokens": 16}
            response = (await client.post("/v1/responses", json=asked, headers=reader)).json()
            for each in (f"/summaries/{path}", f"/v1/responses/{path}", f"/{path}", f"/jobs/{path}"):
                await client.get(each, headers=reader)
                await client.get(each, headers={"Authorization": f"Bearer {idempotency}"})
            await client.post("/generate", json={text: text}, headers=reader)
            await client.delete(f"/summaries/{made['id']}", headers=reader)
            await client.post("/admin/keys/writer/revoke", headers=bearer("boss"))
    lines = [record.getMessage() for record in caplog.records if record.name == "server.audit"]
    who = "key=reader tenant=reader"
    size = len(json.dumps(body, separators=(",", ":")))
    expected = [
        rf"{who} POST /compress 201 received={size} sent=\d+ stored={made['id']}",
        rf"{who} POST /generate 200 received=\d+ sent=\d+ read={made['id']}",
        r"key=writer tenant=writer GET /summaries/{summary_id} 404 received=0 sent=\d+",
        rf"{who} POST /jobs/compress 202 received=\d+ sent=\d+ started={job['id']}",
        rf"{who} JOB {job['id']} done stored={told['result']['id']}",
        rf"{who} POST /v1/responses 200 received=\d+ sent=\d+ stored={response['id']}",
        rf"{who} GET unknown 404 received=0 sent=\d+",
        r"key=- tenant=- GET refused invalid_api_key",
        rf"{who} DELETE /summaries/{{summary_id}} 200 received=0 sent=\d+ deleted={made['id']}",
        r"key=boss tenant=boss POST /admin/keys/{name}/revoke 200 received=0 sent=\d+ revoked=writer",
    ]
    for pattern in expected:
        assert [line for line in lines if re.fullmatch(pattern.replace("{", r"\{").replace("}", r"\}"), line)], pattern
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    for word in (*WORDS, *KEYS.values()):
        assert word not in ours


async def test_a_line_has_so_many_ids_at_most(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(api_keys=ALL) as client:
        documents = [f"The document of number {number}." for number in range(70)]
        with caplog.at_level(logging.INFO, logger="server.audit"):
            body = {"query": "Who?", "documents": documents}
            assert (await client.post("/rerank", json=body, headers=bearer("reader"))).status_code == 200
    (line,) = (record.getMessage() for record in caplog.records if record.name == "server.audit")
    assert line.count("stored=") == 64
    assert line.endswith(" and 6 more")
