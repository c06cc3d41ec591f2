"""What answers while the models are being loaded: that the process lives, the page, and that all else is to come."""

from collections.abc import Collection

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import NotReady
from server.http.answers.errors import error_detail
from server.http.middleware.browsers import Browsers
from server.http.routes import page
from server.http.schemas import models as schemas
from server.http.schemas.errors import ErrorResponse

UNAVAILABLE = 503
RETRY_AFTER_SECONDS = "5"
REFUSAL = ErrorResponse(error=error_detail(NotReady("the model is being loaded"))).model_dump()


class CannotServe(Exception):
    """A start that failed; the message is a sentence for whoever started it."""


class Starting:
    """An application that answers for another until that is there.

    It imports nothing that takes long: a probe is answered as soon as the process has begun.
    """

    def __init__(self, *, hosts: Collection[str] | None, origins: Collection[str]) -> None:
        """Args: hosts, origins: as `Browsers` has them."""
        self._app: ASGIApp = Browsers(_waiting_app(), hosts=hosts, origins=origins)

    def give_way(self, app: ASGIApp) -> None:
        """Have the other one answer what comes from now on."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _waiting_app() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(page.router)
    for path, answer in (("/livez", _livez), ("/readyz", _readyz), ("/health", _readyz)):
        app.add_api_route(path, answer, methods=["GET", "HEAD"])
    app.mount("/", _refuse)
    return app


async def _livez() -> schemas.Health:
    return schemas.Health(status="ok", checks={})


async def _readyz(response: Response) -> schemas.Health:
    response.status_code = UNAVAILABLE
    return schemas.Health(status="unavailable", checks={"engine": "loading"})


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Of a request or a WebSocket."""
    refusal = JSONResponse(REFUSAL, UNAVAILABLE, headers={"Retry-After": RETRY_AFTER_SECONDS})
    await refusal(scope, receive, send)
