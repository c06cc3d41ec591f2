"""`autocompressor merge`: a checkpoint that stands on a base, and the base, as one."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from server.cli import terminal
from server.cli.terminal import Status
from server.settings import ENVIRONMENT_PREFIX


def merge(
    checkpoint: Annotated[Path, typer.Argument(help="An AutoCompressor checkpoint that names its base.")],
    out: Annotated[Path, typer.Argument(help="Where to write; nothing may be there.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar=f"{ENVIRONMENT_PREFIX}DATA",
            help="Where bases are kept.",
            show_default="this user's data directory",
        ),
    ] = None,
) -> None:
    """Write an adapter checkpoint with its base in it, which needs nothing else to be loaded.

    The adapter stays apart in it, as it is on for some passes and off for others; other tools read the base alone.
    """
    if out.exists():
        terminal.stop(f"{out} is there already")
    # not at the top: it brings torch, which takes seconds, and other commands do without it
    autocompressor = importlib.import_module("model").AutoCompressor
    written_aside = importlib.import_module("model.atomic").written_aside
    try:
        model = autocompressor.from_pretrained(checkpoint, data=data)
        with written_aside(out) as aside:
            model.save_pretrained(aside)
    except (ValueError, OSError) as error:
        terminal.stop(str(error), Status.FAILED)
    typer.echo(out)
