"""What all commands share: where the server is, how results are printed, and how failures end the program."""

import asyncio
import functools
import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from autocompressor import AsyncClient, AutocompressorError
from server.cli import terminal
from server.cli.commands.checks import finite
from server.cli.terminal import Status

P = ParamSpec("P")

URL_VARIABLE = "AUTOCOMPRESSOR_URL"
API_KEY_VARIABLE = "AUTOCOMPRESSOR_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Options:
    """Options of every command, as typer reads them."""

    url: Annotated[
        str | None, typer.Option(help="The server.", envvar=URL_VARIABLE, show_default=DEFAULT_URL, metavar="URL")
    ] = None
    api_key: Annotated[str | None, typer.Option(help="Sent as a bearer token.", envvar=API_KEY_VARIABLE)] = None
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the server.", min=0.001, callback=finite)] = 600.0
    local: Annotated[
        bool, typer.Option("--local", help="Without a server: load the model and open the store in this process.")
    ] = False
    model: Annotated[
        str | None,
        typer.Option(help="Of the server's models the one of this name. With --local: as of `autocompressor serve`."),
    ] = None
    store: Annotated[str | None, typer.Option(help="With --local: as of `autocompressor serve`.")] = None
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each result.")] = False


@dataclass(frozen=True)
class Session:
    """A command while it runs."""

    client: AsyncClient
    is_json: bool

    def give(self, result: Any, text: str, **more: Any) -> None:
        """Print a result: as `text`, or with --json as an object, `more` before it."""
        typer.echo(terminal.as_json(result, **more) if self.is_json else text)

    def complain(self, error: AutocompressorError, about: str | None = None) -> None:
        """Tell of a failed request on standard error, in the form of results."""
        if self.is_json:
            named = {} if about is None else {"name": about}
            detail = {"message": error.message, "code": error.code, "param": error.param, "status": error.status}
            typer.echo(terminal.as_json({"error": detail}, **named), err=True)
        else:
            terminal.say(error.message if about is None else f"{about}: {error.message}")


def with_session(
    run: Callable[Concatenate[Session, P], Awaitable[None]], *, needs_server: bool = False
) -> Callable[..., None]:
    """A command for typer: its own parameters and those of `Options`; a failed request is an exit status.

    Args:
        needs_server: --local is refused.
    """

    @functools.wraps(run)
    def command(**given: Any) -> None:
        shared = Options(**{field.name: given.pop(field.name) for field in fields(Options)})
        if needs_server and shared.local:
            terminal.stop(f"{run.__name__} asks a server for what it has: start one, and leave --local out")
        asyncio.run(_run(shared, run, given))

    own = list(inspect.signature(run).parameters.values())[1:]
    shared = inspect.signature(Options).parameters.values()
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


async def _run(options: Options, run: Callable[..., Awaitable[None]], given: dict[str, Any]) -> None:
    async with _client(options) as client:
        session = Session(client, options.json)
        try:
            await run(session, **given)
        except AutocompressorError as error:
            session.complain(error)
            raise typer.Exit(status_of(error)) from None


def status_of(error: AutocompressorError) -> Status:
    return Status.UNREACHABLE if error.code == "unreachable" else Status.FAILED


@asynccontextmanager
async def _client(options: Options) -> AsyncIterator[AsyncClient]:
    if not options.local:
        if options.store:
            terminal.stop("--store is of --local; a server has its own")
        url = options.url or DEFAULT_URL
        if not url.startswith(("http://", "https://")):
            terminal.stop(f"the URL {url!r} does not begin with http:// or https://")
        async with AsyncClient(url, options.api_key, model=options.model, timeout=options.timeout) as client:
            yield client
        return
    # not at the top: the core brings torch, which takes seconds, and most commands do without it
    local = importlib.import_module("server.cli.local")
    settings = {name: value for name in ("model", "store") if (value := getattr(options, name)) is not None}
    async with local.open_local(settings) as client:
        yield client
