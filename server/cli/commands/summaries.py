"""`autocompressor summaries`: what is stored."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autocompressor import AutocompressorError, Summary
from server.cli import terminal
from server.cli.commands.documents import STANDARD_INPUT
from server.cli.commands.session import Session, status_of, with_session
from server.cli.terminal import Status

PAGE = 50
Id = Annotated[str, typer.Argument(help="A summary's id.")]


class Format(StrEnum):
    SAFETENSORS = "safetensors"
    PROMPT_EMBEDS = "prompt_embeds"


@with_session
async def list_all(
    session: Session,
    limit: Annotated[
        int | None, typer.Option(help="At most so many, the newest; all of them by default.", min=1)
    ] = None,
) -> None:
    """List the stored summaries, newest first."""
    after, left = None, limit
    while left is None or left > 0:
        page = await session.client.list_summaries(limit=PAGE if left is None else min(left, PAGE), after=after)
        for summary in page.data:
            session.give(summary, _line(summary))
        if not page.has_more or not page.data:
            return
        after = page.data[-1].id
        left = None if left is None else left - len(page.data)


def _line(summary: Summary) -> str:
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.created))
    name = summary.metadata.get("file", "")
    return f"{summary.id}  {created}  {summary.tokens:9,} tokens  {summary.vectors:5,} vectors  {name}".rstrip()


@with_session
async def show(session: Session, summary_id: Id) -> None:
    """Describe a stored summary."""
    summary = await session.client.get_summary(summary_id)
    expires = summary.expires_in_seconds
    rows = {
        "id": summary.id,
        "model": summary.model,
        "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.created)),
        "tokens": f"{summary.tokens:,} in {summary.segments} segments",
        "vectors": f"{summary.vectors:,}, one for {summary.compression_ratio:.1f} tokens",
        "parent": summary.parent or "none",
        "expires": "never" if expires is None else f"in {expires:,.0f} s",
        **{f"metadata.{name}": value for name, value in summary.metadata.items()},
    }
    session.give(summary, "\n".join(f"{name:12} {value}" for name, value in rows.items()))


@with_session
async def remove(session: Session, summary_ids: Annotated[list[str], typer.Argument(help="Ids.")]) -> None:
    """Delete summaries; segments that others share stay."""
    failures = []
    for summary_id in summary_ids:
        try:
            await session.client.delete_summary(summary_id)
        except AutocompressorError as error:
            if error.code == "unreachable":
                raise
            session.complain(error, summary_id)
            failures.append(error)
        else:
            session.give({"id": summary_id, "deleted": True}, summary_id)
    if failures:
        are_all = len(failures) == len(summary_ids)
        raise typer.Exit(status_of(failures[0]) if are_all else Status.PARTLY_FAILED)


@with_session
async def export(
    session: Session,
    summary_id: Id,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file, or - for stdout; ID.FORMAT if not.")] = None,
    format: Annotated[Format, typer.Option(help="prompt_embeds is what vLLM takes.")] = Format.SAFETENSORS,  # noqa: A002
) -> None:
    """Write a summary's vectors to a file."""
    data = await session.client.export_summary(summary_id, format=format.value)
    if out == STANDARD_INPUT:
        typer.echo(data, nl=False)
        return
    path = out or Path(f"{summary_id}.{format.value}")
    try:
        path.write_bytes(data)
    except OSError as error:
        terminal.stop(f"{path}: {error.strerror}")
    session.give({"id": summary_id, "file": str(path), "bytes": len(data)}, str(path))


@with_session
async def import_file(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote, as safetensors.")],
    summary_id: Annotated[str | None, typer.Option("--id", help="Its id; the file's name without the ending.")] = None,
) -> None:
    """Store an exported summary; the server checks it before."""
    try:
        data = path.read_bytes()
    except OSError as error:
        terminal.stop(f"{path}: {error.strerror}")
    summary = await session.client.import_summary(summary_id or path.stem, data)
    session.give(summary, summary.id)


def make_app() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="List, show, delete, export and import stored summaries.")
    commands = {"ls": list_all, "show": show, "rm": remove, "export": export, "import": import_file}
    for name, command in commands.items():
        app.command(name, epilog=terminal.STATUS_HELP)(command)
    return app
