"""`autocompressor score`: how likely continuations are, conditioned on summaries."""

from typing import Annotated

import typer

from server.cli.commands import documents
from server.cli.commands.generate import Expand, Files, Summaries
from server.cli.commands.session import Session, with_session


@with_session
async def score(
    session: Session,
    continuations: Annotated[list[str], typer.Argument(help="Each usually begins with a space; - for stdin.")],
    prompt: Annotated[str, typer.Option(help="What they continue.")] = "",
    summary: Summaries = None,
    file: Files = None,
    expand: Expand = None,
) -> None:
    """Print the log-probability of each continuation after a prompt, conditioned on summaries."""
    texts = [documents.piped(text) for text in continuations]
    ids = await documents.summary_ids(session.client, summary or (), file or (), keep_text=expand is not None)
    result = await session.client.score(texts, prompt=prompt, summary_ids=ids, expand=expand)
    for text, one in zip(texts, result.scores, strict=True):
        session.give(one, f"{one.logprob:10.4f}  {text}", continuation=text)
