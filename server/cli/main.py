"""`autocompressor`: the command line."""

import importlib
import importlib.util
import inspect
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from server.cli import terminal
from server.cli.commands import keys, session, store, summaries
from server.cli.commands.bases import fetch_base
from server.cli.commands.bulk import bulk
from server.cli.commands.compress import compress
from server.cli.commands.corpora import ask, search
from server.cli.commands.generate import generate
from server.cli.commands.index import index
from server.cli.commands.merge import merge
from server.cli.commands.rerank import rerank
from server.cli.commands.score import score
from server.settings import ENVIRONMENT_PREFIX, Settings, load_settings

# of the commands that talk to a server, and no settings of one
CLIENT_VARIABLES = frozenset({session.URL_VARIABLE, session.API_KEY_VARIABLE})

app = typer.Typer(
    help="Compress documents into summary vectors; generate and score conditioned on them (arXiv 2305.14788).",
    epilog=terminal.STATUS_HELP,
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
    environment = {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}
    try:
        settings = load_settings(environment, given)
    except ValueError as error:
        terminal.stop(terminal.as_sentence(error))
    # oneDNN keeps what it compiled for each shape of a matrix: a thousand by itself, most of a gigabyte after a while
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    # not at the top: the server brings torch, which takes seconds, and other commands do without it
    serving = importlib.import_module("server.http.serving")
    try:
        serving.run(settings)
    except serving.CannotServe as error:
        terminal.stop(str(error))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train an AutoCompressor; `autocompressor train --help` lists the flags."""
    if importlib.util.find_spec("accelerate") is None:
        terminal.stop("training needs its extra: pip install 'autocompressor[train]'")
    sys.argv = ["autocompressor train", *context.args]
    runpy.run_module("training", run_name="__main__")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Measure the engine beside its peers; `autocompressor bench --help` lists the flags."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "benchmarks" / "__main__.py").is_file():
        terminal.stop("the benchmarks are in a checkout of the source, not in the installed package")
    raise typer.Exit(
        subprocess.run([sys.executable, "-m", "benchmarks", *context.args], cwd=checkout, check=False).returncode
    )


@app.command("version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version("autocompressor"))


app.command()(fetch_base)
app.command()(merge)
for command in (bulk, index, compress, generate, score, rerank, search, ask):
    app.command(epilog=terminal.STATUS_HELP)(command)
app.add_typer(summaries.make_app(), name="summaries")
app.add_typer(keys.make_app(), name="keys")
app.add_typer(store.make_app(), name="store")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
