"""`autocompressor compress`: documents in, ids out."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from autocompressor import AutocompressorError, Compressed, Progress
from server.cli import terminal
from server.cli.commands import documents
from server.cli.commands.checks import life_time, not_empty
from server.cli.commands.documents import Document, NoText, Unreadable
from server.cli.commands.session import Session, status_of, with_session
from server.cli.terminal import Status
from server.limits import MAX_METADATA_VALUE


@with_session
async def compress(
    session: Session,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|DIR|-...", help="Text files, folders with all their text files, or - for stdin."),
    ],
    pattern: Annotated[str, typer.Option(help="Which files of a folder, '*.md'.", callback=not_empty)] = "*",
    parent: Annotated[str | None, typer.Option(help="Id of the summary that the text continues.")] = None,
    ttl_seconds: Annotated[
        float | None,
        typer.Option(help="How long to keep it; the server's default.", callback=life_time),
    ] = None,
    keep_text: Annotated[bool, typer.Option(help="Store the text too, for `generate --expand`.")] = False,
    measure: Annotated[bool, typer.Option(help="Measure and print how much of each text its vectors keep.")] = False,
    concurrency: Annotated[int, typer.Option(help="Documents sent at a time.", min=1, max=64)] = 4,
) -> None:
    """Compress documents, and print the id of each beside its name.

    What is stored already is looked up, not computed: after an interruption, run the same command again.

    A folder's binary and empty files are passed over and counted; a text that is not UTF-8 has failed.

    Exit status 2 also where a folder has no file of the pattern, or none with text in it.

    The file's name is kept as the metadata `file`; other metadata of a stored document stays.
    """
    found = documents.find(paths, pattern)
    with _bars() as bars:
        work = _Compression(session, bars, parent, ttl_seconds, keep_text=keep_text, measure=measure)
        await work.run(found, concurrency)
    if len(found) != 1 or not work.counts["done"]:
        terminal.say(work.summary())
    if work.counts["failed"]:
        raise typer.Exit(Status.PARTLY_FAILED if work.counts["done"] else work.status)
    if not work.counts["done"]:
        terminal.stop("there is nothing to compress: none of the files has text in it")


class _Compression:
    """Several documents on their way to the server, at most `concurrency` at a time."""

    def __init__(
        self,
        session: Session,
        bars: Bars,
        parent: str | None,
        ttl_seconds: float | None,
        *,
        keep_text: bool,
        measure: bool,
    ) -> None:
        self._session = session
        self._bars = bars
        self._parent = parent
        self._ttl_seconds = ttl_seconds
        self._keep_text, self._measure = keep_text, measure
        self.counts: Counter[str] = Counter()
        self.status = Status.FAILED

    async def run(self, found: Sequence[Document], concurrency: int) -> None:
        total = self._bars.add_task("documents", total=len(found), visible=len(found) > 1)
        waiting = iter(found)
        await asyncio.gather(*(self._work(waiting, total) for _ in range(concurrency)))

    async def _work(self, waiting: Iterator[Document], total: TaskID) -> None:
        for document in waiting:
            await self._one(document)
            self._bars.advance(total)

    async def _one(self, document: Document) -> None:
        try:
            self._give(document, await self._compressed(document))
        except Unreadable as error:
            if isinstance(error, NoText) and document.is_found:
                self.counts["skipped"] += 1
                return
            self._fail(document, documents.bad_file(str(error)))
        except AutocompressorError as error:
            if error.code == "unreachable":
                raise  # nor would the others reach it
            self._fail(document, error)

    async def _compressed(self, document: Document) -> Compressed:
        text = await asyncio.to_thread(document.text)
        named = {} if document.path == documents.STANDARD_INPUT else {"file": document.name}
        bar = self._bars.add_task(document.path.name, total=None)

        def show(progress: Progress) -> None:
            self._bars.update(bar, completed=progress.segments_done, total=progress.segments_total)

        try:
            return await self._session.client.compress(
                text,
                parent=self._parent,
                ttl_seconds=self._ttl_seconds,
                metadata=named if len(document.name) <= MAX_METADATA_VALUE else None,
                keep_text=self._keep_text,
                measure=self._measure,
                progress=None if self._bars.disable else show,
            )
        finally:
            self._bars.remove_task(bar)

    def _give(self, document: Document, made: Compressed) -> None:
        self.counts["done"] += 1
        self.counts["stored"] += made.was_stored
        with self._bars_away():
            kept = f"  {_kept(made.retention)}" if self._measure else ""
            self._session.give(made, f"{made.id}  {document.name}{kept}", file=document.name)

    def _fail(self, document: Document, error: AutocompressorError) -> None:
        self.counts["failed"] += 1
        self.status = status_of(error)
        with self._bars_away():
            self._session.complain(error, document.name)

    @contextmanager
    def _bars_away(self) -> Iterator[None]:
        """rich can print above its bars, but it would break lines at the terminal's width."""
        if self._bars.disable:
            yield
            return
        self._bars.stop()
        yield
        self._bars.start()

    def summary(self) -> str:
        counts = self.counts
        return (
            f"{counts['done'] - counts['stored']} compressed, {counts['stored']} stored already, "
            f"{counts['skipped']} without text passed over, {counts['failed']} failed"
        )


def _kept(retention: Mapping[str, Any] | None) -> str:
    """What was measured, in words."""
    if retention is None:
        return "too short to measure"
    losses = "{none:.2f} nats after nothing, {summary:.2f} after vectors, {full:.2f} after the text".format(**retention)
    share = retention["share"]
    return losses if share is None else f"keeps {share:.0%} ({losses})"


def _bars() -> Bars:
    """Bars on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bars(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )
