"""`autocompressor store`: what a store holds, whether it is whole, and what has expired removed."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from server.cli import terminal
from server.cli.terminal import Status
from server.core.callers.keyring import read_keyring
from server.core.tenant import Tenant
from server.settings import ENVIRONMENT_PREFIX, load_settings

if TYPE_CHECKING:
    from server.store import SummaryStore

T = TypeVar("T")
Url = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Which, as of `autocompressor serve`.",
        envvar=f"{ENVIRONMENT_PREFIX}STORE",
        show_default="the server's own",
    ),
]


def stats(url: Url = None) -> None:
    """Count what each tenant's space holds: entries, documents and responses among them, bytes of their values.

    A space is named after a hash of its tenant, with `.jobs` for its jobs; `server` has the server's own secrets,
    `jobs` a list of unfinished ones. Where AUTOCOMPRESSOR_API_KEYS says which keys there are, tenants are named, with
    their limits.
    """
    named = _named_spaces()

    async def told(store: "SummaryStore") -> None:
        spaces = await store.stats()
        typer.echo(f"{'space':<46} {'entries':>10} {'documents':>10} {'bytes':>16}")
        for each in spaces:
            known = named.get(each.space, "")
            typer.echo(f"{each.space:<46} {each.entries:>10,} {each.documents:>10,} {each.size_bytes:>16,}{known}")
        sums = [sum(getattr(each, name) for each in spaces) for name in ("entries", "documents", "size_bytes")]
        typer.echo(f"{'all':<46} {sums[0]:>10,} {sums[1]:>10,} {sums[2]:>16,}")

    _with_store(url, told)


def verify(
    url: Url = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete what is damaged and nothing needs; the rest is computed again.")
    ] = False,
) -> None:
    """Read every record of summaries and compare its checksum; a server may run on the store meanwhile.

    Exit status 1 where some are damaged and stay. A server never uses those: it computes them again, or answers 404.
    """
    care = importlib.import_module("server.store.care")  # it brings torch, which takes seconds

    async def told(store: "SummaryStore") -> int:
        checked = others = damaged = removed = 0
        async for found in care.look_over(store):
            checked, others, damaged = checked + found.checked, others + found.others, damaged + len(found.damaged)
            for key in found.damaged:
                typer.echo(f"{found.space} {key}")
            if remove:
                removed += await care.remove_damaged(store, found)
            terminal.say(f"{checked:,} records looked at")
        terminal.say(f"{checked:,} records, {damaged:,} damaged, {removed:,} removed; {others:,} have no checksum")
        return damaged - removed

    if _with_store(url, told):
        raise typer.Exit(Status.FAILED)


def gc(url: Url = None) -> None:
    """Remove what has expired now, which a server does a little at a time; nothing that lives is touched."""

    async def told(store: "SummaryStore") -> None:
        swept = await store.sweep()
        typer.echo(f"{swept.entries:,} entries had expired")

    _with_store(url, told)


def _named_spaces() -> dict[str, str]:
    """By the space of each tenant that keys are of: its name and how many bytes it may have."""
    try:
        settings = load_settings({}, {})
        keys = () if settings.api_keys is None else read_keyring(settings.api_keys).keys
    except (OSError, ValueError) as error:
        terminal.stop(terminal.as_sentence(error) if isinstance(error, ValueError) else str(error))
    root = Tenant(settings.tenant_salt)
    return {
        root.named(key.tenant_name).account: f"  {key.tenant_name or '-'}, of {_shown(key.stored_bytes)}"
        for key in keys
    }


def _shown(limit: int | None) -> str:
    return "any number" if limit is None else f"{limit:,}"


def make_app() -> typer.Typer:
    app = typer.Typer(help="What a store holds, and whether it is whole.", no_args_is_help=True)
    for command in (stats, verify, gc):
        app.command(epilog=terminal.STATUS_HELP)(command)
    return app


def _with_store(url: str | None, call: Callable[["SummaryStore"], Awaitable[T]]) -> T:
    """What a call says of the store that the settings name; a file of an earlier version is migrated on the way."""
    try:
        settings = load_settings({}, {} if url is None else {"store": url})
    except ValueError as error:
        terminal.stop(terminal.as_sentence(error))

    path = settings.store.removeprefix("sqlite:")
    if path != settings.store and not Path(path).is_file():  # a server would make it
        terminal.stop(f"there is no store {settings.store}")
    stores = importlib.import_module("server.store")  # not at the top: other commands do without a client of Redis

    async def called() -> T:
        store = await stores.open_store(settings.store, old_space=Tenant(settings.tenant_salt).account)
        try:
            return await call(store)
        finally:
            await store.close()

    try:
        return asyncio.run(called())
    except ValueError as error:
        terminal.stop(str(error))
    except stores.StoreError as error:
        terminal.stop(str(error), Status.UNREACHABLE)
