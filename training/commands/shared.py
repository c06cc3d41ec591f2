"""What the commands share: where tokenised documents are kept, and how a mistake ends them."""

from pathlib import Path
from typing import NoReturn

import typer

DEFAULT_CACHE = Path.home() / ".cache" / "autocompressor" / "tokens"


def stop(message: str) -> NoReturn:
    """Tell what is wrong and end with status 2."""
    typer.echo(f"training: {message}", err=True)
    raise typer.Exit(2)
