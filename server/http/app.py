"""The application over an open core."""

import asyncio
import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.core.core import Core
from server.http.envelope import add_error_handlers
from server.http.middleware.bodies import Bodies
from server.http.middleware.body_limit import BodyLimit
from server.http.middleware.browsers import Browsers
from server.http.middleware.callers import Callers
from server.http.middleware.decompression import Decompression
from server.http.middleware.request_log import RequestLog
from server.http.request_id import HEADER
from server.http.routes import (
    admin,
    chat,
    completions,
    compress,
    corpora,
    generate,
    health,
    info,
    jobs,
    models,
    page,
    rerank,
    responses,
    responses_socket,
    score,
    summaries,
    tokens,
)
from server.limits import MAX_BODIES

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

NATIVE = (compress, summaries, generate, score, rerank, corpora, jobs, tokens, info)
STANDARD = (completions, chat, responses, responses_socket, models)
ROUTES = (*NATIVE, *STANDARD, health, admin, page)


def create_app(core: Core, *, tracer: "Tracer | None" = None) -> FastAPI:
    """The application; the core outlives it, and takes up jobs from now on.

    `tracer` makes a span of every request; None for no traces.
    """
    app = FastAPI(
        title="autocompressor",
        version=version("autocompressor"),
        docs_url=None,  # FastAPI's loads scripts from elsewhere; ours is a page without any
        redoc_url=None,
        summary="Compress documents into summary vectors; generate and score conditioned on them.",
    )
    app.state.core = core
    app.state.reading = asyncio.Lock()  # a large body
    app.state.faults = {}  # as /readyz saw them last
    settings = core.settings
    # the last one added stands outermost
    app.add_middleware(Bodies, max_bytes=MAX_BODIES * settings.max_body_bytes, metrics=core.metrics)
    app.add_middleware(Decompression, max_bytes=settings.max_body_bytes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.body_seconds)
    if core.access is not None:
        app.add_middleware(Callers, access=core.access, metrics=core.metrics)
    app.add_middleware(Browsers, hosts=settings.hosts, origins=settings.origins)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[HEADER],
        )
    if tracer is not None:
        # not at the top: it brings OpenTelemetry, which is an extra
        app.add_middleware(importlib.import_module("server.http.middleware.traces").Traces, tracer=tracer)
    app.add_middleware(RequestLog, metrics=core.metrics)
    app.include_router(compress.form_router)
    for each in ROUTES:
        app.include_router(each.router)
    add_error_handlers(app)
    core.jobs.begin(jobs.work_of(core, app.state.reading), is_ready=lambda: _takes_jobs(core))
    return app


def _takes_jobs(core: Core) -> bool:
    """Whether a job that is taken now would be done here."""
    return core.models.default.encoder.is_ready and not core.is_stopping.is_set()
