"""An application behind a real socket of this process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def listening(app: Any, **config: Any) -> AsyncIterator[int]:
    """Its port; `config` as uvicorn takes it."""
    settings = {"http": "httptools", "lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 1} | config
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def eventually(holds: Any, *, seconds: float = 5) -> None:
    """Return once it holds; TimeoutError where it does not."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)
