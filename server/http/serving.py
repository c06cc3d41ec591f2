"""`autocompressor serve`: listen, open the parts, answer until a signal comes, close them.

What takes long to import is imported by `opening`, once the socket listens.
"""

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from prometheus_client import start_http_server
from starlette.types import ASGIApp

from server import log
from server.http.connection import Connection
from server.http.socket import Socket
from server.http.starting import CannotServe, Starting
from server.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from server.core.core import Core

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30  # longer than most proxies keep an idle connection to here
# The engine's thread asks for the interpreter's lock after each of torch's operations, and gets it from a busy event
# loop no sooner than this
SWITCH_SECONDS = 0.0005
BACKLOG = 2048  # connections that may wait to be accepted, as uvicorn's own default
SIGNALLED = 128  # and the number of the signal: how a shell tells that a process ended by one


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        CannotServe: the address is taken, or a part cannot be built from these settings.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    log.configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Listen, open the parts, answer until a signal comes, close the parts."""
    started = time.monotonic()
    async with AsyncExitStack() as opened:
        listener = opened.enter_context(_bound(settings))
        try:
            tracer = _tracer(settings, opened)
        except ValueError as error:
            raise CannotServe(str(error)) from error
        starting = Starting(hosts=settings.hosts, origins=settings.origins)
        server = _Server(_config(settings, starting))
        listener.listen(BACKLOG)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises a signal again once it has stopped; the parts are closed after that
            opened.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        answering = asyncio.create_task(server.serve(sockets=[listener]))
        opened.push_async_callback(_end, server, answering)  # of a start that fails
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        logger.info("loading; /livez and the page are at %s", address)
        core, app = await _opened(settings, opened, tracer)
        server.core = core
        starting.give_way(app)
        logger.info("ready in %.1f s at %s", time.monotonic() - started, address)
        if core.access is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, core.access.reload)
        elif settings.hosts is None and settings.host not in LOOPBACK:
            logger.warning(
                "anyone who reaches %s may read and delete what is stored, as the server asks for no key: give it "
                "api_keys, or put a proxy that asks before it, and name its hosts in allowed_hosts",
                settings.host,
            )
        await answering


async def _opened(settings: Settings, opened: AsyncExitStack, tracer: "Tracer | None") -> tuple["Core", ASGIApp]:
    """The core and the application over it, until `opened` closes."""
    gc.disable()  # what is imported stays, and would be gone through again and again
    # in a thread, as it takes seconds and the event loop answers meanwhile
    opening = await asyncio.to_thread(importlib.import_module, "server.http.opening")
    gc.freeze()
    gc.enable()
    core, app = await opening.open_app(settings, opened, tracer=tracer)
    if settings.metrics_port is not None:
        opened.callback(_serve_metrics(core, settings.host, settings.metrics_port))
    gc.collect()
    gc.freeze()  # what is there for good, not to be gone through again: that would hold the event loop
    return core, app


async def _end(server: uvicorn.Server, answering: asyncio.Task[None]) -> None:
    """Have a server close its socket, where it has not; whoever asks it at this moment is not waited for."""
    server.should_exit = server.force_exit = True
    await asyncio.wait([answering])


def _config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws=Socket,
        ws_max_size=settings.max_body_bytes,
        lifespan="off",
        log_config=None,
        access_log=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        backlog=BACKLOG,
    )


def _tracer(settings: Settings, opened: AsyncExitStack) -> "Tracer | None":
    """What makes spans, until `opened` closes; None where nobody asks for them, or only by a variable of others'.

    Raises:
        ValueError: the settings ask for them, and the extra is not installed.
    """
    if settings.traces == "off":
        return None
    try:
        traces = importlib.import_module("server.traces")  # not at the top: it brings OpenTelemetry, which is an extra
    except ImportError as error:
        lacking = f"traces need the extra otel, pip install 'autocompressor[otel]': {error}"
        if settings.traces == "on":
            raise ValueError(lacking) from error
        logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set; %s", lacking)
        return None
    provider = traces.open_provider()
    opened.push_async_callback(asyncio.to_thread, provider.shutdown)
    tracer: Tracer = provider.get_tracer(traces.NAME)
    return tracer


def _serve_metrics(core: "Core", host: str, port: int) -> Callable[[], None]:
    """Answer with the metrics at an address of their own, from threads, until what is returned is called."""
    try:
        server, thread = start_http_server(port, host, core.metrics.registry)
    except OSError as error:
        raise CannotServe(f"cannot listen at {host} port {port}: {error.strerror or error}") from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


class _Server(uvicorn.Server):
    """Tells of a stop before its socket closes: whoever routes requests here looks at /readyz.

    Attributes:
        core: None while it is being opened.
    """

    core: "Core | None" = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.core is None:
            # at once, as a thread that imports or loads cannot be told to end, and nothing of a client's is on its way
            logger.warning("stopped by %s while the model was being loaded", signal.Signals(sig).name)
            os._exit(SIGNALLED + sig)
        self.core.is_stopping.set()
        super().handle_exit(sig, frame)


def _bound(settings: Settings) -> socket.socket:
    """A socket at the address of the settings, not listening yet: a taken port is told before the model is loaded."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as on_failure:
            bound = on_failure.enter_context(socket.socket(family, kind))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            on_failure.pop_all()
    except OSError as error:
        reason = error.strerror or error
        raise CannotServe(f"cannot listen at {settings.host} port {settings.port}: {reason}") from error
    return bound
