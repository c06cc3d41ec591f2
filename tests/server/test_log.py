"""The log: lines of text or of JSON, a request's figures in its own, and nothing of what anybody wrote."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from server.engine.torch.runner import Runner
from server.http.app import create_app
from server.http.connection import Connection
from server.log import JsonFormatter, TextFormatter, fields
from server.tally import Tally, counting
from tests.http.listening import listening
from tests.server.conftest import Serve, named

CANARY = "zanzibarcanary"
DOCUMENT = f"The keeper wrote {CANARY} in the book, a line a day, of wind and ships. " * 6
ABSENT = "0" * 64


class Lines(logging.Handler):
    """What both formats make of every record, of libraries, too."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.json: list[dict[str, Any]] = []
        self._formatters = TextFormatter(), JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        text, line = (formatter.format(record) for formatter in self._formatters)
        assert "\n" not in line
        self.texts.append(text)
        self.json.append(json.loads(line))

    def of(self, endpoint: str) -> dict[str, Any]:
        """The last line of a request there."""
        return [line for line in self.json if f" {endpoint} " in line["message"]][-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    level, ours = root.level, logging.getLogger("server").level
    handler = Lines()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("server").setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("server").setLevel(ours)


def record(message: str = "said %s", **given: Any) -> logging.LogRecord:
    made = logging.LogRecord("server.core", logging.WARNING, "", 1, message, ("this",), None)
    made.__dict__.update(fields(given))
    return made


def test_a_line_of_json_has_what_the_record_has() -> None:
    with counting(Tally("id-1")):
        line = json.loads(JsonFormatter().format(record(tokens_in=3)))
    assert line.pop("time").endswith("+00:00")
    said = {"level": "warning", "logger": "server.core", "message": "said this", "request_id": "id-1", "tokens_in": 3}
    assert line == said


def test_an_exception_stays_in_its_line() -> None:
    made = record()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


def test_a_line_of_text_has_them_at_its_end() -> None:
    with counting(Tally("id-1")):
        assert TextFormatter().format(record(n=1)).endswith(" WARNING server.core: said this request_id=id-1 n=1")
    assert TextFormatter().format(record()).endswith("said this")


async def test_a_request_s_line_has_its_id_and_what_it_took(client: httpx.AsyncClient, lines: Lines) -> None:
    made = (await client.post("/compress", json={"text": DOCUMENT}, headers={"X-Request-Id": "made"})).json()
    line = lines.of("/compress")
    assert (line["request_id"], line["tokens_in"], line["level"]) == ("made", made["tokens"], "info")
    assert line["queue_seconds"] >= 0
    assert not {"cached_tokens", "tokens_out", "first_token_seconds"} & line.keys()
    await client.post("/compress", json={"text": DOCUMENT})
    line = lines.of("/compress")
    assert line["tokens_in"] == line["cached_tokens"] == made["tokens"]
    assert "queue_seconds" not in line, "the engine was not asked"

    asked = {"summary_ids": [made["id"]], "prompt": "Who?", "max_tokens": 5, "ignore_eos": True, "stream": True}
    said = await client.post("/generate", json=asked)
    assert said.status_code == 200
    line = lines.of("/generate")
    assert line["request_id"] == said.headers["x-request-id"]
    assert line["tokens_out"] == 5
    assert 0 < line["tokens_in"] < 10
    assert 0 <= line["queue_seconds"] <= line["first_token_seconds"] < 60
    assert "cached_positions" not in line
    await client.post("/generate", json=asked)
    assert lines.of("/generate")["cached_positions"] > 0

    scored = {"summary_ids": [made["id"]], "prompt": "Who?", "continuations": [" He", " Nobody"]}
    assert (await client.post("/score", json=scored)).status_code == 200
    assert lines.of("/score")["tokens_in"] > 4
    assert "tokens_out" not in lines.of("/score")


def calls(made: str) -> list[tuple[str, str, Any]]:
    """Of every route one that is answered and, as a rule, one that is refused, each with the canary."""
    said, chat = DOCUMENT, [{"role": "user", "content": DOCUMENT}]
    asked = {"summary_ids": [made], "prompt": CANARY, "max_tokens": 3}
    return [
        ("POST", "/compress", {"text": said, "metadata": {CANARY: CANARY}, "keep_text": True, "measure": True}),
        ("POST", "/compress", {"documents": [{"text": said}, {"text": CANARY}], "stream": True}),
        ("POST", "/compress", {"text": [said]}),
        ("POST", "/compress", {CANARY: said}),
        ("POST", f"/summaries/{made}/append", {"text": said}),
        ("POST", f"/summaries/{CANARY}/append", {"text": said}),
        ("GET", "/summaries", None),
        ("GET", f"/summaries/{made}", None),
        ("GET", f"/summaries/{CANARY}", None),
        ("GET", f"/summaries/{made}/segments", None),
        ("PUT", f"/summaries/{made}", {CANARY: said}),
        ("POST", "/generate", asked),
        ("POST", "/generate", {**asked, "stream": True, "stop": [CANARY]}),
        ("POST", "/generate", {**asked, "summary_ids": [ABSENT]}),
        ("POST", "/generate", {"prompt": said * 100}),
        ("POST", "/score", {"prompt": CANARY, "continuations": [CANARY]}),
        ("POST", "/score", {"prompt": CANARY, "continuations": [""]}),
        ("POST", "/rerank", {"query": CANARY, "documents": [said, CANARY]}),
        ("POST", "/rerank", {"query": "", "documents": [said]}),
        ("POST", "/search", {"corpus": CANARY, "query": CANARY}),
        ("POST", "/ask", {"corpus": CANARY, "query": CANARY}),
        ("POST", "/jobs/compress", {"text": f"{said} job"}),
        ("GET", f"/jobs/{CANARY}", None),
        ("DELETE", f"/jobs/{CANARY}", None),
        ("POST", "/tokenize", {"text": said}),
        ("POST", "/tokenize", {"text": 3}),
        ("POST", "/detokenize", {"token_ids": [5, 6]}),
        ("GET", "/info", None),
        ("GET", "/v1/models", None),
        ("GET", f"/v1/models/{CANARY}", None),
        ("POST", "/v1/completions", {"prompt": said * 4, "max_tokens": 3, "logprobs": 1}),
        ("POST", "/v1/completions", {"prompt": said * 4, "truncate": "error"}),
        ("POST", "/v1/chat/completions", {"messages": chat, "max_tokens": 3, "stream": True}),
        ("POST", "/v1/chat/completions", {"messages": chat, "model": CANARY}),
        ("POST", "/v1/responses", {"input": said, "max_output_tokens": 3}),
        ("POST", "/v1/responses", {"input": said, "previous_response_id": CANARY}),
        ("POST", "/v1/responses/compact", {"input": said}),
        ("POST", "/v1/responses/input_tokens", {"input": said}),
        ("GET", f"/v1/responses/{CANARY}", None),
        ("GET", f"/v1/responses/{CANARY}/input_items", None),
        ("DELETE", f"/v1/responses/{CANARY}", None),
        ("POST", f"/v1/responses/{CANARY}/cancel", None),
        ("GET", f"/{CANARY}?{CANARY}={CANARY}", None),
        ("GET", "/admin/usage", None),
        ("POST", f"/admin/keys/{CANARY}/revoke", None),
        ("DELETE", f"/summaries/{made}", None),
        ("GET", "/metrics", None),
        *(("GET", path, None) for path in ("/health", "/livez", "/readyz", "/openapi.json", "/docs", "/")),
    ]


async def test_no_text_and_no_key_is_in_any_line(serve: Serve, lines: Lines) -> None:
    """At the level of debug, of all routes and of a WebSocket, answered or refused; nor in the metrics."""
    key = {"Authorization": f"Bearer {CANARY}-key", "Cookie": f"{CANARY}=1", "Idempotency-Key": CANARY}
    secrets = {name: f"{CANARY}-{name}" for name in ("export_secret", "compaction_keys", "tenant_salt")}
    statuses = set()
    async with serve(allowed_hosts="localhost", log_level="debug", **secrets) as core_of:
        app = create_app(core_of.core)  # type: ignore[attr-defined]

        @app.get("/defect")
        async def defect() -> None:
            try:
                raise KeyError(CANARY)
            except KeyError as error:
                raise ValueError(f"an error of {CANARY}") from error

        async with (
            listening(app, http=Connection, ws="websockets-sansio") as port,
            httpx.AsyncClient(base_url=f"http://localhost:{port}", headers=key, timeout=60) as client,
        ):
            model = core_of.services.model.name  # type: ignore[attr-defined]
            made = (await client.post("/compress", json={"text": DOCUMENT})).json()["id"]
            exported = await client.get(f"/summaries/{made}", headers={"Accept": "application/octet-stream"})
            put = await client.put(f"/summaries/{made}", content=exported.content + CANARY.encode())
            assert (exported.status_code, put.status_code) == (200, 400)
            asked = calls(made)
            for method, path, body in asked:
                if path.startswith("/v1/responses") and isinstance(body, dict):
                    body = {"model": model, **body}
                whole = named(path, body, model)
                for sent in (json.dumps(whole), *_wrong(whole)) if body is not None else (None,):
                    headers = {"Content-Type": "application/json"}
                    answered = await client.request(method, path, content=sent, headers=headers)
                    assert answered.status_code < 500, (method, path, sent, answered.text)
                    statuses.add(answered.status_code)
            async with connect(f"ws://localhost:{port}/v1/responses") as socket:
                for frame in (
                    {"type": "response.create", "model": model, "input": DOCUMENT, "max_output_tokens": 3},
                    {"type": CANARY, "model": model},
                ):
                    await socket.send(json.dumps(frame))
                    while json.loads(await socket.recv())["type"] not in (
                        "response.completed",
                        "response.incomplete",
                        "error",
                    ):
                        pass
            assert (await client.get("/defect")).status_code == 500
            metrics = (await client.get("/metrics")).text
            described = (await client.get("/openapi.json")).json()["paths"]
    assert {200, 400, 404, 422} <= statuses
    ours = [line for line in lines.json if line["logger"].startswith("server")]
    assert len(ours) > len(asked)
    endpoints = {line["message"].split()[1] for line in ours if line["logger"].endswith("request_log")}
    assert set(described) - {"/defect"} <= {re.sub(r":\w+}", "}", endpoint) for endpoint in endpoints}
    (told,) = [line["exception"] for line in lines.json if "exception" in line]
    assert re.search(r"in defect\b.*ValueError\ncame of\n.*KeyError$", told, re.DOTALL)
    assert told_of_canary(lines) == []
    assert CANARY not in metrics


async def test_a_batch_that_fails_is_logged_without_what_was_in_it(
    serve: Serve, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("out of memory")

    async with serve() as client:
        monkeypatch.setattr(Runner, "run", failing)
        assert (await client.post("/generate", json={"prompt": DOCUMENT, "stop": [CANARY]})).status_code == 424
    assert any("out of memory" in line.get("exception", "") for line in lines.json)
    assert told_of_canary(lines) == []


def _wrong(body: Any) -> list[str]:
    """Bodies like it that are refused: an unknown field, wrong types, not an object, not JSON."""
    names = list(body) if isinstance(body, dict) else []
    others = [{**dict.fromkeys(names, 1), CANARY: CANARY}, {name: {CANARY: [CANARY]} for name in names}, [CANARY]]
    return [*map(json.dumps, others), f'{{"{CANARY}": ']


def told_of_canary(lines: Lines) -> list[str]:
    """Lines that `serve` would write with it in them."""
    shown = [text for text, line in zip(lines.texts, lines.json, strict=True) if _is_shown(line)]
    return [text for text in shown if CANARY in text]


def _is_shown(line: dict[str, Any]) -> bool:
    """Whether `serve` would write it: all of ours, and warnings of libraries."""
    return line["logger"].split(".")[0] == "server" or line["level"] not in ("debug", "info")
