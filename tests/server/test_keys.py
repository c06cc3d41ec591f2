"""A server with keys: who comes in, by which routes, and what becomes of a key that is changed or revoked."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.core.callers import revoked
from server.http.app import create_app
from server.http.connection import Connection
from server.settings import Settings
from tests.http.listening import listening
from tests.server.conftest import Serve
from tests.server.keys import ALL, KEYS, bearer, entry
from tests.server.test_responses import model_of

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. "
OPEN = ("/livez", "/readyz", "/health", "/", "/docs", "/static/main.js")
BAD = [
    {},
    {"Authorization": "Bearer ac-another"},
    {"Authorization": f"Basic {KEYS['reader']}"},
    {"Authorization": KEYS["reader"]},
    {"Authorization": f"Bearer {KEYS['reader']} "[:-2]},
    {"X-Api-Key": KEYS["reader"]},
]


def told(answer: httpx.Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["error"]["code"], answer.headers.get("WWW-Authenticate")


@pytest.mark.parametrize("headers", BAD)
async def test_every_route_but_health_and_the_page_s_files_wants_a_key(serve: Serve, headers: dict[str, str]) -> None:
    async with serve(api_keys=ALL) as client:
        app = create_app(client.core)  # type: ignore[attr-defined]
        routes = [(path, method) for path, methods in app.openapi()["paths"].items() for method in methods]
        assert len(routes) > 30
        more = [("/openapi.json", "get"), ("/responses", "post"), ("/v1/score", "post"), ("/no/such/route", "get")]
        for path, method in [*routes, *more, ("/livez/x", "get"), ("/static", "get")]:
            if path in OPEN:
                continue
            answer = await client.request(method.upper(), path, headers=headers)
            assert told(answer) == (401, "invalid_api_key", "Bearer"), path
        for path in OPEN:
            assert (await client.get(path, headers=headers)).status_code == 200


async def test_a_key_comes_in_and_sees_its_tenant_s(serve: Serve) -> None:
    async with serve(api_keys=ALL) as client:
        made = {}
        for name in ("reader", "writer", "partner"):
            answer = await client.post("/compress", json={"text": TEXT}, headers=bearer(name))
            made[name] = (answer.status_code, answer.json()["id"])
        assert made["reader"][0] == made["writer"][0] == 201
        assert made["partner"] == (200, made["writer"][1])
        assert made["reader"][1] != made["writer"][1]
        for name, (_, summary_id) in made.items():
            listed = (await client.get("/summaries", headers=bearer(name))).json()["data"]
            assert [one["id"] for one in listed] == [summary_id]


async def test_documents_outlive_keys_and_the_day_that_keys_were_asked_for(serve: Serve) -> None:
    """A tenant's salt is its name's: another key of it sees the same, as does one named after what was unchecked."""
    async with serve() as client:
        before = [
            (await client.post("/compress", json={"text": TEXT}, headers=headers)).json()["id"]
            for headers in ({}, bearer("reader"))
        ]
    old = entry("reader", tenant='"' + entry("reader").split('"')[3] + '"')
    async with serve(api_keys=old + entry("writer", tenant='"team"') + entry("boss", tenant='""')) as client:
        for name, summary_id in zip(("boss", "reader"), before, strict=True):
            assert (await client.get(f"/summaries/{summary_id}", headers=bearer(name))).status_code == 200
        made = (await client.post("/compress", json={"text": TEXT}, headers=bearer("writer"))).json()["id"]
    async with serve(api_keys=entry("partner", tenant='"team"')) as client:
        assert (await client.get(f"/summaries/{made}", headers=bearer("partner"))).status_code == 200
        assert (await client.get(f"/summaries/{made}", headers=bearer("writer"))).status_code == 401


async def test_metrics_are_an_admin_s_or_have_a_port_of_their_own(serve: Serve) -> None:
    async with serve(api_keys=ALL) as client:
        statuses = [(await client.get("/metrics", headers=bearer(name))).status_code for name in ("boss", "reader")]
        assert statuses == [200, 403]
    async with serve(api_keys=ALL, metrics_port=9) as client:
        assert (await client.get("/metrics", headers=bearer("boss"))).status_code == 404
    async with serve(metrics_port=9) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_keys_are_read_again_and_a_bad_file_changes_nothing(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(entry("reader", requests_per_minute=100) + entry("boss"))

    async def statuses() -> list[int]:
        found = [await client.get("/summaries", headers=bearer(name)) for name in ("reader", "writer", "boss")]
        return [answer.status_code for answer in found]

    async with serve(api_keys=str(path)) as client:
        access = client.core.access  # type: ignore[attr-defined]
        assert await statuses() == [200, 401, 200]
        for bad in (f'[[key]]\nname = "{KEYS["writer"]}', entry("reader") * 2, "\0", ""):
            path.write_text(bad)
            access.reload()
            assert await statuses() == [200, 401, 200]
            assert KEYS["writer"] not in caplog.text
        path.unlink()
        access.reload()
        assert await statuses() == [200, 401, 200]
        assert caplog.text.count("stay as they were") == 5
        path.write_text(entry("reader", requests_per_minute=100) + entry("writer"))
        access.reload()
        assert await statuses() == [200, 200, 401]
        # what a key has used is not forgotten for that
        left = (await client.get("/summaries", headers=bearer("reader"))).headers["x-ratelimit-remaining-requests"]
        assert int(left) < 96


def test_a_bad_file_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imports is 'any'"):
        Settings(api_keys=ALL, imports="any")
    assert "sha256" not in repr(Settings(api_keys=ALL))


async def test_a_missing_file_ends_the_start_before_the_model_is_loaded(serve: Serve) -> None:
    with pytest.raises(OSError, match="no-keys"):
        async with serve(api_keys="/tmp/no-keys.toml", model="/no/such/model"):
            pass


async def test_a_revoked_key_stays_out_over_a_restart_and_at_other_replicas(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "REREAD_SECONDS", 0.0)
    async with serve(api_keys=ALL) as client, serve(api_keys=ALL) as replica:
        assert (await replica.get("/summaries", headers=bearer("reader"))).status_code == 200
        for name, expected in (("reader", 403), ("boss", 200)):
            answer = await client.post("/admin/keys/reader/revoke", headers=bearer(name))
            assert answer.status_code == expected
        assert answer.json() == {"name": "reader", "revoked": True}
        unknown = await client.post("/admin/keys/nobody/revoke", headers=bearer("boss"))
        assert told(unknown)[:2] == (404, "key_not_found")
        for each in (client, replica):
            assert told(await each.get("/summaries", headers=bearer("reader")))[:2] == (401, "invalid_api_key")
            assert (await each.get("/summaries", headers=bearer("writer"))).status_code == 200
    async with serve(api_keys=ALL) as client:
        assert (await client.get("/summaries", headers=bearer("reader"))).status_code == 401
        usage = (await client.get("/admin/usage", headers=bearer("boss"))).json()
        assert {key["name"]: key["revoked"] for key in usage["keys"]} == {
            name: name == "reader" for name in ("reader", "writer", "partner", "boss")
        }


async def test_who_was_revoked_has_to_be_known_and_then_a_store_that_is_gone_keeps_nobody_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "REREAD_SECONDS", 0.0)
    async with serve(api_keys=ALL) as client:
        store = client.core.store  # type: ignore[attr-defined]
        whole = type(store).get_many

        async def damaged(self: Any, keys: list[str]) -> list[bytes | None]:
            return [b"damaged"] * len(keys)

        monkeypatch.setattr(type(store), "get_many", damaged)
        assert told(await client.get("/info", headers=bearer("reader")))[:2] == (503, "not_ready")
        monkeypatch.setattr(type(store), "get_many", whole)
        assert (await client.get("/info", headers=bearer("reader"))).status_code == 200
        monkeypatch.setattr(type(store), "get_many", damaged)
        assert (await client.get("/info", headers=bearer("reader"))).status_code == 200


async def test_a_server_without_keys_has_no_admin(client: httpx.AsyncClient) -> None:
    for answer in (await client.get("/admin/usage"), await client.post("/admin/keys/reader/revoke")):
        assert told(answer)[:2] == (404, "key_not_found")


async def test_a_websocket_wants_a_key_and_each_of_its_frames_a_valid_one(serve: Serve) -> None:
    async with serve(api_keys=ALL, allowed_hosts="localhost") as client:
        core = client.core  # type: ignore[attr-defined]
        async with listening(create_app(core), http=Connection, ws="websockets-sansio") as port:
            address = f"ws://localhost:{port}/v1/responses"
            for headers in BAD:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(address, additional_headers=headers)
                assert refused.value.response.status_code == 401
                assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
            async with httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=bearer("reader")) as named:
                model = await model_of(named)
            frame = {"type": "response.create", "model": model, "input": "A keeper", "max_output_tokens": 16}
            async with connect(address, additional_headers=bearer("reader")) as opened:
                await opened.send(json.dumps(frame))
                assert json.loads(await opened.recv())["type"] == "response.created"
                while json.loads(await opened.recv())["type"] not in ("response.completed", "response.incomplete"):
                    pass
                await core.access.revoke("reader")
                await opened.send(json.dumps(frame))
                refusal = json.loads(await opened.recv())
                assert (refusal["status"], refusal["error"]["code"]) == (401, "invalid_api_key")
