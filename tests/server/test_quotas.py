"""Limits of keys over HTTP: refused before any work, told in headers, and each key's own."""

import asyncio
import json
import re

import httpx
import openai
from websockets.asyncio.client import connect

from server.core.callers.access import Access
from server.http.app import create_app
from server.http.connection import Connection
from tests.http.listening import listening
from tests.server.conftest import Serve
from tests.server.keys import KEYS, bearer, entry
from tests.server.test_responses import model_of

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. "


def access_of(client: httpx.AsyncClient) -> Access:
    access: Access = client.core.access  # type: ignore[attr-defined]
    return access


def tokens_of(client: httpx.AsyncClient, name: str) -> int:
    return next(account.usage.tokens for account in access_of(client).accounts if account.key.name == name)


async def test_one_request_too_many_is_429_and_another_key_s_is_not(serve: Serve) -> None:
    async with serve(api_keys=entry("reader", requests_per_minute=3) + entry("writer")) as client:
        for left in (2, 1, 0):
            answer = await client.get("/info", headers=bearer("reader"))
            assert answer.status_code == 200
            assert answer.headers["RateLimit-Policy"] == '"requests";q=3;w=60'
            assert re.fullmatch(rf'"requests";r={left};t=\d+', answer.headers["RateLimit"])
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert re.fullmatch(r"\d+\.\d+s", answer.headers["x-ratelimit-reset-requests"])
        refused = await client.post("/compress", json={"text": TEXT}, headers=bearer("reader"))
        detail = refused.json()["error"]
        assert (refused.status_code, detail["code"], detail["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert "3 requests a minute" in detail["message"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        other = await client.get("/info", headers=bearer("writer"))
        assert other.status_code == 200
        assert not [name for name in other.headers if "ratelimit" in name.lower()]
        assert (await client.get("/livez", headers=bearer("reader"))).status_code == 200
        rejections = client.core.metrics.rejections  # type: ignore[attr-defined]
        assert rejections.labels(reason="rate")._value.get() == 1


async def test_tokens_are_counted_where_the_engine_has_them(serve: Serve) -> None:
    """Whoever asks is charged: what was read for a summary, prompts, answers and scores; nothing for what is stored."""
    async with serve(api_keys=entry("reader") + entry("writer")) as client:
        headers = bearer("reader")
        made = (await client.post("/compress", json={"text": TEXT * 3}, headers=headers)).json()
        assert tokens_of(client, "reader") == made["tokens"] > 50
        await client.post("/compress", json={"text": TEXT * 3}, headers=headers)
        assert tokens_of(client, "reader") == made["tokens"]
        before = made["tokens"]
        calls = [
            ("/generate", {"prompt": "Who?", "summary_ids": [made["id"]], "max_tokens": 5, "ignore_eos": True}),
            ("/generate", {"prompt": "Who?", "max_tokens": 5, "ignore_eos": True, "stream": True}),
            ("/score", {"prompt": "Who?", "summary_ids": [made["id"]], "continuations": [" The keeper", " Nobody"]}),
            ("/v1/completions", {"prompt": "Who?", "max_tokens": 5, "n": 2, "ignore_eos": True}),
        ]
        for path, body in calls:
            answer = await client.post(path, json=body, headers=headers)
            assert answer.status_code == 200
            after = tokens_of(client, "reader")
            if not body.get("stream"):
                usage = answer.json()["usage"]
                own = usage["total_tokens"]
                own += usage["prompt_tokens"] if body.get("n") else 0  # each choice reads the prompt
                assert after - before == own, path
            assert after > before
            before = after
        job = (await client.post("/jobs/compress", json={"text": TEXT * 5}, headers=headers)).json()
        while (await client.get(f"/jobs/{job['id']}", headers=headers)).json()["status"] in ("queued", "running"):
            await asyncio.sleep(0.01)
        assert tokens_of(client, "reader") > before + 50
        assert tokens_of(client, "writer") == 0


async def test_used_up_tokens_refuse_the_next_request(serve: Serve) -> None:
    async with serve(api_keys=entry("reader", tokens_per_minute=20)) as client:
        first = await client.post("/compress", json={"text": TEXT}, headers=bearer("reader"))
        assert first.status_code == 201
        assert '"tokens";q=20;w=60;qu="tokens"' in first.headers["RateLimit-Policy"]
        refused = await client.get("/info", headers=bearer("reader"))
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert int(refused.headers["Retry-After"]) > 3


async def test_streams_at_a_time(serve: Serve) -> None:
    body = {"prompt": "Who?", "max_tokens": 400, "ignore_eos": True, "stream": True}
    async with serve(api_keys=entry("reader", concurrent_requests=2), allowed_hosts="localhost") as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        async with (
            listening(app, http=Connection, ws="websockets-sansio") as port,
            httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=bearer("reader")) as http,
        ):
            async with connect(f"ws://localhost:{port}/responses", additional_headers=bearer("reader")):
                async with http.stream("POST", "/generate", json=body) as answer:
                    assert answer.status_code == 200
                    assert '"concurrent";r=0' in answer.headers["RateLimit"]
                    refused = await http.get("/info")
                    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
                for _ in range(500):  # the client has left, and the server is about to see it
                    if (await http.get("/info")).status_code == 200:
                        break
                    await asyncio.sleep(0.01)
                else:
                    raise AssertionError("a place was not given back")
            assert [account.running for account in access_of(client).accounts] == [0]


async def test_frames_of_a_websocket_are_requests(serve: Serve) -> None:
    async with serve(api_keys=entry("reader", requests_per_minute=3), allowed_hosts="localhost") as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        async with listening(app, http=Connection, ws="websockets-sansio") as port:
            async with httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=bearer("reader")) as http:
                model = await model_of(http)
            frame = json.dumps({"type": "response.create", "model": model, "input": "A", "max_output_tokens": 16})
            async with connect(f"ws://localhost:{port}/responses", additional_headers=bearer("reader")) as socket:
                ends = []
                for _ in range(3):
                    await socket.send(frame)
                    while (event := json.loads(await socket.recv()))["type"] not in ("response.completed", "error"):
                        if event["type"] == "response.incomplete":
                            break
                    ends.append(event.get("status"))
                assert ends == [None, None, 429]
                assert event["error"]["code"] == "rate_limit_exceeded"


async def test_openai_s_client_waits_as_it_is_told(serve: Serve) -> None:
    async with serve(api_keys=entry("reader", requests_per_minute=60)) as client:
        account = access_of(client).accounts[0]
        transport = httpx.ASGITransport(create_app(client.core))  # type: ignore[attr-defined]
        async with openai.AsyncOpenAI(
            base_url="http://server/v1",
            api_key=KEYS["reader"],
            max_retries=2,
            http_client=httpx.AsyncClient(transport=transport),
        ) as spoken:
            assert account.requests is not None
            account.requests.take(60)
            models = await spoken.models.list()
            assert models.data
            assert account.usage.refused >= 1
            account.requests.take(600)
            try:
                await spoken.with_options(max_retries=0).models.list()
            except openai.RateLimitError as refused:
                assert refused.code == "rate_limit_exceeded"  # noqa: PT017
            else:
                raise AssertionError("it was let in")


async def test_an_admin_sees_what_each_key_did(serve: Serve) -> None:
    keys = entry("reader", requests_per_minute=2) + entry("boss", admin="true", tenant='""')
    async with serve(api_keys=keys) as client:
        for _ in range(4):
            await client.post("/compress", json={"text": TEXT}, headers=bearer("reader"))
        await client.get("/info", headers=bearer("writer"))
        assert (await client.get("/admin/usage", headers=bearer("reader"))).status_code == 429
        usage = (await client.get("/admin/usage", headers=bearer("boss"))).json()
        assert usage["unauthorized"] == 1
        reader, boss = usage["keys"]
        assert (reader["requests"], reader["refused"], reader["tenant"]) == (2, 3, "reader")
        assert reader["tokens"] == tokens_of(client, "reader") > 20
        assert (boss["requests"], boss["tokens"], boss["tenant"], boss["running"]) == (1, 0, "", 1)
        assert KEYS["reader"] not in json.dumps(usage)
        assert "sha256" not in json.dumps(usage)


async def test_a_tenant_stores_so_many_bytes_and_no_more(serve: Serve) -> None:
    """Refused before anything of it is stored for good; deleting makes room; others, and what stores nothing, go on."""
    limit = 4000
    team = {"tenant": '"team"', "stored_bytes": limit}
    keys = entry("reader", **team) + entry("writer", **team) + entry("boss", admin="true")
    async with serve(api_keys=keys) as client:

        async def usage() -> list[tuple[int, int | None]]:
            told = (await client.get("/admin/usage", headers=bearer("boss"))).json()["keys"]
            return [(each["stored_bytes"], each["stored_bytes_limit"]) for each in told]

        made = []
        while (
            answer := await client.post("/compress", json={"text": f"{len(made)} {TEXT}"}, headers=bearer("reader"))
        ).is_success:
            made.append(answer.json()["id"])
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
        assert re.search(rf"would have \d+ bytes, .* is {limit}; delete", error["message"])
        assert (answer.headers["x-should-retry"], "Retry-After" in answer.headers) == ("false", False)
        full, same, boss = await usage()
        assert full == same
        assert (0 < full[0] <= limit, full[1], boss) == (True, limit, (0, None))
        job = (await client.post("/jobs/compress", json={"text": TEXT * 5}, headers=bearer("reader"))).json()
        while (told := (await client.get(f"/jobs/{job['id']}", headers=bearer("reader"))).json())["status"] != "failed":
            await asyncio.sleep(0.01)
        assert told["error"]["code"] == "insufficient_quota"
        asked = {"prompt": "Who?", "summary_ids": made[:1], "max_tokens": 1}
        assert (await client.post("/generate", json=asked, headers=bearer("reader"))).status_code == 200
        again = await client.post("/compress", json={"text": f"0 {TEXT}"}, headers=bearer("writer"))
        assert (again.status_code, again.json()["id"]) == (200, made[0])
        assert (await client.post("/compress", json={"text": TEXT * 5}, headers=bearer("boss"))).status_code == 201
        await client.delete(f"/summaries/{made[0]}", headers=bearer("reader"))
        less = await usage()
        long = await client.post("/compress", json={"text": TEXT * 5, "keep_text": True}, headers=bearer("writer"))
        assert (long.status_code, await usage()) == (429, less)
        assert (await client.post("/compress", json={"text": f"a {TEXT}"}, headers=bearer("writer"))).status_code == 201
