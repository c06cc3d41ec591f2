"""How requests reach handlers: JSON bodies read without holding the event loop, unknown parameters refused."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from server.http.json_body import read

LARGE_BODY = 2**16  # bytes


class JsonRequest(Request):
    """One whose large body is read in a thread, one body at a time."""

    async def json(self) -> Any:
        body = await self.body()
        if len(body) < LARGE_BODY:
            return await super().json()
        if not hasattr(self, "_json"):
            async with self.app.state.reading:
                self._json = await asyncio.to_thread(read, body)
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
