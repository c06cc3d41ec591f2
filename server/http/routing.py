"""How requests reach handlers: JSON bodies read without holding the event loop, unknown parameters refused."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from server.http.json_body import read

LARGE_BODY = 2**16  # bytes
# of whoever runs the server: asked by address and without a key, and hold nothing of anybody's
PROBES = frozenset({"/livez", "/readyz", "/health"})


async def read_json(connection: HTTPConnection, body: bytes) -> Any:
    """What a body says; a large one is read in a thread, one at a time.

    Raises:
        As `json_body.read`.
    """
    if len(body) < LARGE_BODY:
        return json.loads(body)
    return await read_large_json(connection.app.state.reading, body)


async def read_large_json(reading: asyncio.Lock, body: bytes) -> Any:
    """As `read_json`, whatever its size; `reading` is held meanwhile."""
    async with reading:
        return await asyncio.to_thread(read, body)


class JsonRequest(Request):
    """One whose body is read by `read_json`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = await read_json(self, await self.body())
        return self._json


class Route(APIRoute):
    """A route of the API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_parameters = bool(self.dependant.query_params)  # those are models, which refuse others themselves

        async def handle_json(request: Request) -> Response:
            if not takes_parameters:
                for name, value in request.query_params.items():
                    error = {"type": "extra_forbidden", "loc": ("query", name), "input": value}
                    raise RequestValidationError([error | {"msg": "Extra inputs are not permitted"}])
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
