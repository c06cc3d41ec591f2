"""`autocompressor keys`: API keys made, for the file that the server's setting `api_keys` names."""

from typing import Annotated

import typer
from pydantic import ValidationError

from server.cli import terminal
from server.core.callers.keyring import ApiKey, digest_of, new_key


def new(
    name: Annotated[str, typer.Option(help="By which logs and admins know the key.")],
    tenant: Annotated[
        str | None,
        typer.Option(help="Whose documents it sees; several keys may share one.", show_default="the key's name"),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may see all keys' usage and revoke keys.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(help="None for no limit.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="That the engine reads or writes for it.")] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(help="Requests, streams and WebSockets among them, at a time.")
    ] = None,
) -> None:
    """Make a key: itself to standard error, once, and its entry, which has its hash alone, to standard output.

    autocompressor keys new --name reader >> keys.toml
    """
    key = new_key()
    try:
        entry = ApiKey(
            name=name,
            sha256=digest_of(key),
            tenant=tenant,
            admin=admin,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrent_requests=concurrent_requests,
        )
    except ValidationError as error:
        first = error.errors()[0]
        terminal.stop(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}")
    terminal.say(f"the key, which is kept nowhere: {key}")
    typer.echo(_toml(entry))


def make_app() -> typer.Typer:
    app = typer.Typer(help="API keys of a server.", no_args_is_help=True)
    app.command()(new)
    app.callback()(_keys)
    return app


def _keys() -> None:
    """API keys of a server."""


def _toml(entry: ApiKey) -> str:
    """An entry of the file; its texts have no character that TOML writes otherwise."""
    given = entry.model_dump(exclude_defaults=True)
    values = {
        name: str(value).lower() if isinstance(value, bool | int) else f'"{value}"' for name, value in given.items()
    }
    return "\n".join(["[[key]]", *(f"{name} = {value}" for name, value in values.items())])
