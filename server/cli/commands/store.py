"""`autocompressor store`: what a store holds, whether it is whole, what has expired removed, all of it moved."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from server.cli import terminal
from server.cli.terminal import Status
from server.core.callers.keyring import read_keyring
from server.core.tenant import Tenant
from server.settings import ENVIRONMENT_PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from server.store import SummaryStore
    from server.store.migration import Moved

SECONDS_BETWEEN = 1.0  # two lines on how far it is
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

    Exit status 1 where some are damaged and stay, or cannot be read: sealed with a key that AUTOCOMPRESSOR_STORE_KEYS
    does not have, or not sealed though it has some. A server never uses those: it computes them again, or answers 404.
    """
    care = importlib.import_module("server.store.care")  # it brings torch, which takes seconds

    async def told(store: "SummaryStore") -> int:
        checked = others = damaged = removed = unread = 0
        async for found in care.look_over(store):
            checked, others, damaged = checked + found.checked, others + found.others, damaged + len(found.damaged)
            unread += found.unread
            for key in found.damaged:
                typer.echo(f"{found.space} {key}")
            if remove:
                removed += await care.remove_damaged(store, found)
            terminal.say(f"{checked:,} records looked at")
        terminal.say(f"{checked:,} records, {damaged:,} damaged, {removed:,} removed; {others:,} have no checksum")
        if unread:
            terminal.say(f"{unread:,} were not looked at: store_keys are not those that they are sealed with")
        return damaged - removed + unread

    if _with_store(url, told):
        raise typer.Exit(Status.FAILED)


def gc(url: Url = None) -> None:
    """Remove what has expired now, which a server does a little at a time; nothing that lives is touched.

    A file of the embedded store gives back all space that nothing takes any more.
    """

    async def told(store: "SummaryStore") -> None:
        swept = await store.sweep()
        typer.echo(f"{swept.entries:,} entries had expired, {swept.freed_bytes:,} bytes given back")

    _with_store(url, told)


def migrate(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A store's URL, as of `autocompressor serve`.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Another's, or the same to seal its values anew.")],
    plain: Annotated[bool, typer.Option("--plain", help="Leave values of TO unsealed, though there are keys.")] = False,
) -> None:
    """Copy all that lives from one store to another, or seal it anew where it is, and say how far it is.

    AUTOCOMPRESSOR_STORE_KEYS open what is read and the first seals what is written; what was not sealed is read too.
    Run it again where it was stopped. Servers may run on FROM: what they put meanwhile is copied by running it again.
    No server may run on TO before that is done. In place servers may run that have all these keys.

    Exit status 1 where entries could not be read, which are named.
    """
    settings = _settings({})
    stores, migration = (importlib.import_module(f"server.store{part}") for part in ("", ".migration"))
    keys = stores.StoreKeys(settings.store_secrets, seals=not plain)

    async def moved() -> int:
        async with _opened(source, settings) as one:
            if source == target:
                return await _told(migration.sealed_anew(one, keys))
            async with _opened(target, settings, is_new=True) as other:
                opened = stores.SealedStore(one, keys, takes_plain=True)
                return await _told(migration.copied(opened, stores.SealedStore(other, keys)))

    if _run(moved):
        raise typer.Exit(Status.FAILED)


async def _told(moves: AsyncIterator["Moved"]) -> int:
    """Say what becomes of entries, and how many were left."""
    copied = were_there = left = 0
    told_at = time.monotonic()
    async for each in moves:
        copied, were_there, left = copied + each.copied, were_there + each.were_there, left + len(each.left)
        for key in each.left:
            typer.echo(f"{each.space} {key}")
        if time.monotonic() - told_at > SECONDS_BETWEEN:
            told_at = time.monotonic()
            terminal.say(f"{copied:,} entries written, {were_there:,} were there")
    terminal.say(f"{copied:,} entries written, {were_there:,} were there, {left:,} could not be read")
    return left


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
    for command in (stats, verify, gc, migrate):
        app.command(epilog=terminal.STATUS_HELP)(command)
    return app


def _with_store(url: str | None, call: Callable[["SummaryStore"], Awaitable[T]]) -> T:
    """What a call says of the store that the settings name; a file of an earlier version is migrated on the way."""
    settings = _settings({} if url is None else {"store": url})
    stores = importlib.import_module("server.store")  # not at the top: other commands do without a client of Redis

    async def called() -> T:
        async with _opened(settings.store, settings) as store:
            return await call(stores.SealedStore(store, stores.StoreKeys(settings.store_secrets)))

    return _run(called)


def _settings(flags: dict[str, str]) -> Settings:
    try:
        return load_settings({}, flags)
    except ValueError as error:
        terminal.stop(terminal.as_sentence(error))


@asynccontextmanager
async def _opened(url: str, settings: Settings, *, is_new: bool = False) -> AsyncIterator["SummaryStore"]:
    """A store as it lies there; one in a file has to be there unless it may be new."""
    path = url.removeprefix("sqlite:")
    if path != url and not is_new and not Path(path).is_file():  # a server would make it
        terminal.stop(f"there is no store {url}")
    stores = importlib.import_module("server.store")
    store = await stores.open_store(url, old_space=Tenant(settings.tenant_salt).account)
    try:
        yield store
    finally:
        await store.close()


def _run(call: Callable[[], Coroutine[None, None, T]]) -> T:
    """What a call says; the failures of stores end the program with a sentence."""
    stores = importlib.import_module("server.store")
    try:
        return asyncio.run(call())
    except ValueError as error:
        terminal.stop(str(error))
    except stores.StoreError as error:
        terminal.stop(str(error), Status.UNREACHABLE)
