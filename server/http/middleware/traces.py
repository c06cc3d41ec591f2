"""A span for every request, in the terms of OpenTelemetry's conventions for HTTP servers and for generative AI."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.middleware.request_log import QUIET, UNKNOWN
from server.http.watched import Outcome, set_watch
from server.tally import Tally, current

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# opentelemetry.io/docs/specs/semconv/gen-ai: the first two are its own words, the others are ours
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/responses": "chat",
    "/v1/completions": "text_completion",
    "/generate": "text_completion",
    "/compress": "compress",
    "/summaries/{summary_id}/append": "compress",
    "/jobs/compress": "compress",
    "/score": "score",
    "/rerank": "rerank",
    "/search": "search",
    "/ask": "text_completion",
}


class Traces:
    """Inside `RequestLog`, whose tally has what the spans tell; a `traceparent` (W3C Trace Context) is gone on from.

    Each turn of a WebSocket has a span, going on from what the connection came with. Probes and scrapes have none.
    """

    def __init__(self, app: ASGIApp, *, tracer: "Tracer") -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tally = current()
        if scope["type"] == "websocket":
            set_watch(scope, partial(self._span, scope))
        if scope["type"] != "http" or scope["path"] in QUIET or tally is None:
            await self._app(scope, receive, send)
            return
        with self._span(scope, tally) as outcome:

            async def observed_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    outcome.status = message["status"]
                await send(message)

            await self._app(scope, receive, observed_send)

    @contextmanager
    def _span(self, scope: Scope, tally: Tally) -> Iterator[Outcome]:
        """Around a request or a turn, whose outcome is told within."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        span = self._tracer.start_span(scope["type"], parent, kind=SpanKind.SERVER)
        tally.trace_id = format_trace_id(span.get_span_context().trace_id)
        outcome = Outcome()
        try:
            yield outcome
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)  # not what it says: that may be a text
            raise
        finally:
            if span.is_recording():
                _describe(span, scope, outcome.status, tally)
            span.end()


def _describe(span: "Span", scope: Scope, status: int, tally: Tally) -> None:
    endpoint = getattr(scope.get("route"), "path", UNKNOWN)
    operation = OPERATIONS.get(endpoint)
    span.set_attributes(
        {
            "http.request.method": scope.get("method", "GET"),  # which a WebSocket begins with
            "http.route": endpoint,
            "http.response.status_code": status,
            "autocompressor.request_id": tally.request_id,
        }
    )
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    if operation is None:
        span.update_name(f"{scope['method']} {endpoint}")  # turns have an operation
        return
    span.update_name(operation if tally.model is None else f"{operation} {tally.model}")
    told = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "autocompressor",
        "gen_ai.request.model": tally.model,
        "gen_ai.response.model": tally.model,
        "gen_ai.response.finish_reasons": sorted(tally.finish_reasons) or None,
        "gen_ai.response.time_to_first_chunk": tally.first_token_seconds,
        "gen_ai.usage.input_tokens": tally.tokens_in,
        "gen_ai.usage.output_tokens": tally.tokens_out,
        "gen_ai.usage.cache_read.input_tokens": tally.cached_tokens,
        "autocompressor.cached_positions": tally.cached_positions,
        "autocompressor.queue_seconds": tally.queue_seconds,
    }
    span.set_attributes({name: value for name, value in told.items() if value is not None})
