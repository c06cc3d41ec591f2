"""The application over an open core."""

from importlib.metadata import version

from fastapi import FastAPI

from server.core.core import Core
from server.http.envelope import add_error_handlers
from server.http.middleware.body_limit import BodyLimit
from server.http.middleware.request_log import RequestLog
from server.http.routes import (
    chat,
    completions,
    compress,
    generate,
    health,
    info,
    jobs,
    models,
    page,
    rerank,
    score,
    summaries,
    tokens,
)

ROUTES = (compress, summaries, generate, score, rerank, jobs, tokens, info, completions, chat, models, health, page)


def create_app(core: Core) -> FastAPI:
    """The application; the core outlives it."""
    app = FastAPI(
        title="autocompressor",
        version=version("autocompressor"),
        summary="Compress documents into summary vectors; generate and score conditioned on them.",
    )
    app.state.core = core
    app.add_middleware(BodyLimit, max_bytes=core.settings.max_body_bytes)
    app.add_middleware(RequestLog, metrics=core.metrics)
    app.include_router(compress.form_router)
    for each in ROUTES:
        app.include_router(each.router)
    add_error_handlers(app)
    return app
