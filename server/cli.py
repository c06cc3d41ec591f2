"""`autocompressor`: the command line."""

import asyncio
import importlib.util
import inspect
import logging
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from importlib.metadata import version
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer
import uvicorn
import uvloop
from pydantic import ValidationError

from server import log
from server.app import create_app, open_services
from server.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from server.store import StoreError

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that may wait to be accepted, as uvicorn's own default

app = typer.Typer(
    help="Compress documents into summary vectors; generate and score conditioned on them (arXiv 2305.14788).",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _with_setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag a setting, so that flags, variables and their help cannot drift apart."""
    parameters = []
    for name, field in Settings.model_fields.items():
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=field.description,
            envvar=f"{ENVIRONMENT_PREFIX}{name.upper()}",
            show_envvar=True,
            metavar="|".join(get_args(field.annotation)) if get_origin(field.annotation) is Literal else None,
            show_default="none" if field.default is None else str(field.default) or "empty",
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@app.command()
@_with_setting_flags
def serve(**flags: Any) -> None:
    """Serve over HTTP until stopped. Every setting is a flag or an environment variable."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = load_settings(dict(os.environ), given)
    except ValidationError as error:
        first = error.errors()[0]
        _stop(f"setting {first['loc'][0]} = {first['input']!r}: {first['msg']}")
    except ValueError as error:
        _stop(str(error))
    log.configure(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Open the parts, answer until a signal comes, close them."""
    started = time.monotonic()
    async with AsyncExitStack() as opened:
        listener = opened.enter_context(_bound(settings))
        try:
            services = await opened.enter_async_context(open_services(settings))
        except (ValueError, OSError, StoreError) as error:
            _stop(str(error))
        config = uvicorn.Config(
            create_app(services),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        store = settings.store.rsplit("@", maxsplit=1)[-1]
        logger.info(
            "%s on %s in %s, summaries in %s", services.model.name, services.model.device, services.model.dtype, store
        )
        listener.listen(BACKLOG)
        logger.info("ready in %.1f s at http://%s:%d", time.monotonic() - started, *listener.getsockname()[:2])
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises a signal again once it has stopped; the parts are closed after that
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve(sockets=[listener])


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
        _stop(f"cannot listen at {settings.host} port {settings.port}: {error.strerror or error}")
    return bound


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train an AutoCompressor; `autocompressor train --help` lists the flags."""
    if importlib.util.find_spec("accelerate") is None:
        _stop("training needs its extra: pip install 'autocompressor[train]'")
    sys.argv = ["autocompressor train", *context.args]
    runpy.run_module("training", run_name="__main__")


@app.command("version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version("autocompressor"))


def _stop(message: str) -> NoReturn:
    typer.echo(f"autocompressor: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    app()
