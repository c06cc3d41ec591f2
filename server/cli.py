"""`autocompressor`: the command line."""

import inspect
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError

from server import log
from server.app import create_app
from server.settings import ENVIRONMENT_PREFIX, Settings, load_settings

logger = logging.getLogger(__name__)

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
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    listener = config.bind_socket()
    logger.info("starting; will answer at http://%s:%d/docs", *listener.getsockname()[:2])
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


@app.command("version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version("autocompressor"))


def _stop(message: str) -> None:
    typer.echo(f"autocompressor: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    app()
