"""What is in no log, at whatever level and however a call ends: texts, keys, secrets, vectors."""

import logging
from typing import Any

import pytest

from server.engine.torch.runner import Runner
from server.http.app import create_app
from tests.server.conftest import Serve

WORD = "quincunx"  # of every text, name and value that is sent
KEY, EXPORT, COMPACTION, SALT = "key-of-a-caller", "secret-of-exports", "secret-of-items", "salt-of-tenants"
TEXT = f"The {WORD} stands by the sea, and whoever keeps it writes one line a day. " * 3
HEADERS = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": WORD}

BODIES: dict[str, Any] = {
    "/compress": {"text": TEXT, "metadata": {WORD: WORD}, "keep_text": True},
    "/summaries/{summary_id}/append": {"text": TEXT},
    "/generate": {"prompt": TEXT, "max_tokens": 2, "stop": [WORD]},
    "/score": {"prompt": WORD, "continuations": [WORD]},
    "/rerank": {"query": WORD, "documents": [TEXT, WORD]},
    "/jobs/compress": {"text": TEXT},
    "/tokenize": {"text": WORD},
    "/detokenize": {"token_ids": [1, 2]},
    "/v1/completions": {"prompt": TEXT, "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 2},
    "/v1/responses": {"input": f"Remember the {WORD}.", "max_output_tokens": 16},
    "/v1/responses/compact": {"input": f"Remember the {WORD}."},
    "/v1/responses/input_tokens": {"input": WORD},
    "/v1/responses/{response_id}/cancel": {},
    "/admin/keys/{name}/revoke": {},
}


def _leaked(caplog: pytest.LogCaptureFixture) -> list[str]:
    secrets = (WORD, KEY, EXPORT, COMPACTION, SALT)
    # with tracebacks; httpx is the one who asks here
    whole = [caplog.handler.format(record) for record in caplog.records if record.name != "httpx"]
    return [line for line in whole if any(secret in line for secret in secrets)]


def _wrong(body: dict[str, Any]) -> list[Any]:
    """Bodies like it that are refused: an unknown field, wrong types, not JSON."""
    return [{**body, WORD: WORD}, {name: {WORD: [WORD]} for name in body}, [WORD]]


async def test_no_text_and_no_secret_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"export_secret": EXPORT, "compaction_keys": COMPACTION, "tenant_salt": SALT, "log_level": "debug"}
    async with serve(**settings) as client:
        made = (await client.post("/compress", json={"text": TEXT}, headers=HEADERS)).json()["id"]
        paths = create_app(client.core).openapi()["paths"]  # type: ignore[attr-defined]
        posted = [path for path, methods in paths.items() if "post" in methods]
        assert set(posted) == set(BODIES)  # a new route is asked here too
        model = client.services.model.name  # type: ignore[attr-defined]
        statuses = []
        for path in posted:
            url = path.replace("{summary_id}", made).replace("{response_id}", WORD).replace("{name}", WORD)
            whole = {"model": model, **BODIES[path]} if "/v1/" in path else BODIES[path]
            bodies = (whole, *_wrong(whole))
            statuses += [(await client.post(url, json=body, headers=HEADERS)).status_code for body in bodies]
            statuses.append((await client.post(url, content=f'{{"{WORD}": ', headers=HEADERS)).status_code)
        read = (f"/summaries/{WORD}", f"/v1/models/{WORD}", f"/{WORD}?{WORD}={WORD}", f"/jobs/{WORD}")
        statuses += [(await client.get(path, headers=HEADERS)).status_code for path in read]
        exported = await client.get(f"/summaries/{made}", headers={**HEADERS, "Accept": "application/octet-stream"})
        put = await client.put(f"/summaries/{made}", content=exported.content + WORD.encode(), headers=HEADERS)
        statuses += [exported.status_code, put.status_code]
    assert {200, 400, 404, 422} <= set(statuses)
    assert 500 not in statuses
    assert "POST /generate 200" in caplog.text
    assert _leaked(caplog) == []


async def test_a_batch_that_fails_is_logged_without_what_was_in_it(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("out of memory")

    caplog.set_level(logging.DEBUG)
    async with serve() as client:
        monkeypatch.setattr(Runner, "run", failing)
        answer = await client.post("/generate", json=BODIES["/generate"], headers=HEADERS)
    assert answer.status_code == 424
    assert "out of memory" in caplog.text
    assert _leaked(caplog) == []
