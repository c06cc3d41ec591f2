"""`autocompressor rerank`: documents by how well they fit a query."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli import terminal
from server.cli.commands import documents
from server.cli.commands.session import Session, with_session


@with_session
async def rerank(
    session: Session,
    query: Annotated[str, typer.Argument(help="What to order them by.")],
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Documents.")] = None,
    summary: Annotated[
        list[str] | None, typer.Option("--summary", "-s", help="A stored document's id; may be repeated.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A document as it is; may be repeated.")
    ] = None,
    top_n: Annotated[int | None, typer.Option(help="Print so many.", min=1)] = None,
) -> None:
    """Order documents by how likely they make the query, the best first; what is not stored is compressed."""
    named: list[tuple[str, str | dict[str, str]]] = [
        *((str(path), documents.text_of(path)) for path in paths or ()),
        *((summary_id, {"summary_id": summary_id}) for summary_id in summary or ()),
        *((passage, passage) for passage in text or ()),
    ]
    if not named:
        terminal.stop("there is nothing to rank: name files, or give --summary or --text")
    ranking = await session.client.rerank(query, [document for _, document in named], top_n=top_n)
    for one in ranking.results:
        name, _ = named[one.index]
        result = {"index": one.index, "relevance_score": one.relevance_score, "summary_id": one.summary_id}
        session.give(result, f"{one.relevance_score:10.4f}  {name}", name=name)
