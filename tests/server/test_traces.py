"""Spans of requests, as OpenTelemetry's own exporter in memory gets them; none where nobody asks for traces."""

import gzip
import importlib
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from server.http import serving
from server.http.app import create_app
from server.http.connection import Connection
from server.settings import Settings
from tests.http.listening import listening
from tests.server.conftest import Serve, named
from tests.server.test_log import CANARY, DOCUMENT
from tests.server.test_responses_socket import turn

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Traced:
    """A server whose spans stay here."""

    def __init__(self, core_of: Any) -> None:
        self._exporter = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(self._exporter))
        self.app = create_app(core_of.core, tracer=provider.get_tracer("test"))
        self.model = core_of.services.model.name
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://server")

    async def call(self, path: str, body: Any = None, **given: Any) -> tuple[httpx.Response, Any]:
        """An answer, and the one span of it, None for none."""
        self._exporter.clear()
        method = "GET" if body is None else "POST"
        answered = await self.client.request(method, path, json=named(path, body, self.model), **given)
        assert len(self.spans) <= 1
        return answered, self.spans[0] if self.spans else None

    @property
    def spans(self) -> Any:
        """Those that are over, since the last call."""
        return self._exporter.get_finished_spans()


@pytest.fixture
async def traced(serve: Serve) -> AsyncIterator[Traced]:
    async with serve() as core_of:
        yield Traced(core_of)


async def test_a_chat_is_told_in_the_words_of_the_conventions(traced: Traced) -> None:
    asked = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 5, "ignore_eos": True, "stream": True}
    answered, span = await traced.call("/v1/chat/completions", asked, headers={"X-Request-Id": "one"})
    assert answered.status_code == 200
    told = dict(span.attributes)
    assert (span.name, span.kind.name) == (f"chat {traced.model}", "SERVER")
    assert told.pop("gen_ai.response.time_to_first_chunk") >= told.pop("autocompressor.queue_seconds") >= 0
    assert told.pop("gen_ai.usage.input_tokens") > 0
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "autocompressor.request_id": "one",
        "autocompressor.cached_positions": 0,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "autocompressor",
        "gen_ai.request.model": traced.model,
        "gen_ai.response.model": traced.model,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }


async def test_every_operation_has_its_name_and_what_it_took(traced: Traced) -> None:
    made, span = await traced.call("/compress", {"text": DOCUMENT})
    assert (span.name, span.attributes["gen_ai.usage.input_tokens"]) == (
        f"compress {traced.model}",
        made.json()["tokens"],
    )
    _, span = await traced.call("/compress", {"text": DOCUMENT})
    assert span.attributes["gen_ai.usage.cache_read.input_tokens"] == made.json()["tokens"]
    _, span = await traced.call("/generate", {"summary_ids": [made.json()["id"]], "prompt": "a", "max_tokens": 2})
    assert span.name == f"text_completion {traced.model}"
    _, span = await traced.call("/score", {"prompt": "a", "continuations": ["b"]})
    assert span.name == f"score {traced.model}"
    _, span = await traced.call(f"/summaries/{made.json()['id']}")
    assert (span.name, span.attributes["http.route"]) == ("GET /summaries/{summary_id}", "/summaries/{summary_id}")


@pytest.mark.parametrize("path", ["/readyz", "/livez", "/health", "/metrics"])
async def test_probes_have_no_spans(traced: Traced, path: str) -> None:
    assert (await traced.call(path))[1] is None


async def test_a_trace_of_the_caller_s_is_gone_on_from(traced: Traced) -> None:
    _, span = await traced.call("/info", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert (await traced.call("/info", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}))[1] is None  # not sampled
    _, span = await traced.call("/info", headers={"traceparent": "00-nonsense"})
    assert span.parent is None


async def test_refusals_and_defects(traced: Traced) -> None:
    _, span = await traced.call("/generate", {"prompt": "a", "model": "none"})
    assert (span.name, span.status.status_code.name) == ("text_completion", "UNSET")
    assert span.attributes["http.response.status_code"] == 404

    @traced.app.get("/defect")
    async def defect() -> None:
        raise KeyError(CANARY)

    answered, span = await traced.call("/defect")
    assert answered.status_code == 500
    assert (span.status.status_code.name, span.attributes["error.type"]) == ("ERROR", "KeyError")
    assert CANARY not in span.to_json()


async def test_each_turn_of_a_web_socket_has_a_span(traced: Traced) -> None:
    async with listening(traced.app, http=Connection, ws="websockets-sansio") as port:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        place = {"host": "localhost", "port": port}
        async with connect("ws://server/v1/responses", additional_headers=headers, **place) as socket:
            await turn(socket, model=traced.model, input=CANARY)
            await turn(socket, model="none", input=CANARY)
    good, bad = traced.spans
    assert (good.name, bad.name) == (f"chat {traced.model}", "chat")
    assert [span.attributes["http.response.status_code"] for span in (good, bad)] == [200, 404]
    assert good.attributes["gen_ai.usage.output_tokens"] == 16
    assert {f"{span.context.trace_id:032x}" for span in (good, bad)} == {TRACE}
    assert CANARY not in good.to_json() + bad.to_json()


async def test_no_text_is_in_a_span(traced: Traced) -> None:
    for path, body in (
        ("/compress", {"text": DOCUMENT, "metadata": {CANARY: CANARY}}),
        ("/generate", {"prompt": CANARY, "max_tokens": 2}),
        ("/generate", {"prompt": CANARY, "max_tokens": CANARY}),
        (f"/summaries/{CANARY}?{CANARY}=1", None),
    ):
        _, span = await traced.call(path, body, headers={"Authorization": f"Bearer {CANARY}"})
        assert CANARY not in span.to_json()


def test_the_provider_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    for given, told in ((None, "autocompressor"), ("ours", "ours")):
        if given is not None:
            monkeypatch.setenv("OTEL_SERVICE_NAME", given)
        provider = importlib.import_module("server.traces").open_provider()
        assert provider.resource.attributes["service.name"] == told
        provider.shutdown()


async def test_spans_reach_a_collector_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        async with AsyncExitStack() as opened:
            tracer = serving._tracer(Settings(traces="on"), opened)
            assert tracer is not None
            tracer.start_span("chat tiny").end()
        collector.shutdown()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b"chat tiny" in gzip.decompress(body) if body[:2] == b"\x1f\x8b" else b"chat tiny" in body
