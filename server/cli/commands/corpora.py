"""`autocompressor search` and `autocompressor ask`: passages of a server's corpus, and an answer from them."""

from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from autocompressor import AutocompressorError, Hit
from server.cli.commands import documents
from server.cli.commands.checks import finite
from server.cli.commands.session import Session, with_session
from server.limits import MAX_EXPANDED, MAX_PARTS, MAX_PASSAGES, MAX_SEED, MAX_TEMPERATURE

SHOWN_CHARACTERS = 120  # of a passage


class By(StrEnum):
    """How candidates are found."""

    BM25 = "bm25"
    NEAREST = "nearest"
    BOTH = "both"


Corpus = Annotated[str, typer.Argument(help="As `serve --corpora NAME=FOLDER` names it.")]
Found = Annotated[By, typer.Option(help="Candidates by words, by nearness, or by both.")]
Candidates = Annotated[int, typer.Option(help="How many are found at most.", min=1, max=MAX_PASSAGES)]
Limit = Annotated[
    int | None,
    typer.Option(help="How many hits, the best candidates.", show_default="5", min=1, max=MAX_PARTS),
]
Rerank = Annotated[bool, typer.Option(help="Order them by how likely they make the query, or leave them as found.")]


@partial(with_session, needs_server=True)
async def search(
    session: Session,
    corpus: Corpus,
    query: Annotated[str, typer.Argument(help="What to find; - for stdin.")],
    by: Found = By.BM25,
    candidates: Candidates = 50,
    limit: Limit = None,
    rerank: Rerank = True,
) -> None:
    """Find passages of a corpus that a server has, the best first.

    autocompressor search library "the keeper of the lamp" --by both

    Corpora are made by `autocompressor bulk` and `autocompressor index`; `autocompressor index --help` has all four
    steps.
    """
    found = await session.client.search(
        corpus,
        documents.piped(query),
        by=by.value,
        candidates=candidates,
        limit=limit,
        rerank=rerank,
    )
    for hit in found.hits:
        session.give(hit, f"{_score(hit):10.4f}  {hit.source_id}  {_beginning(hit)}")


@partial(with_session, needs_server=True)
async def ask(
    session: Session,
    corpus: Corpus,
    query: Annotated[str, typer.Argument(help="The question; - for stdin.")],
    by: Found = By.BM25,
    candidates: Candidates = 50,
    limit: Limit = None,
    rerank: Rerank = True,
    expand: Annotated[
        int | None,
        typer.Option(
            help="Read so many segments, which the question speaks of most, as text.", min=1, max=MAX_EXPANDED
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens.", min=1)] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 takes the most likely token; the model's own by default.",
            min=0,
            max=MAX_TEMPERATURE,
            callback=finite,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.", min=0, max=MAX_SEED)] = None,
) -> None:
    """Answer a question from a corpus that a server has; the answer is printed as it comes, then what it stands on.

    autocompressor ask library "Who keeps the lighthouse?" --expand 2

    The passages' summaries stand before the question, the best nearest to it. --expand has the model read the text of
    those that matter most, which costs as many tokens and finds exact words.
    """
    asked = {"by": by.value, "candidates": candidates, "limit": limit, "rerank": rerank}
    choices = {"expand": expand, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    question = documents.piped(query)
    if session.is_json:
        session.give(await session.client.ask(corpus, question, **asked, **choices), "")  # type: ignore[arg-type]
        return
    hits: tuple[Hit, ...] = ()
    has_begun = False
    try:
        async for chunk in session.client.stream_answer(corpus, question, **asked, **choices):  # type: ignore[arg-type]
            hits = hits if chunk.search is None else chunk.search.hits
            has_begun = has_begun or bool(chunk.text)
            typer.echo(chunk.text, nl=False)
    except AutocompressorError:
        if has_begun:
            typer.echo()
        raise
    typer.echo()
    for hit in hits:
        typer.echo(f"  {hit.source_id}  {_beginning(hit)}", err=True)


def _score(hit: Hit) -> float:
    """By which the hits are in order."""
    scores = (hit.relevance_score, hit.fused, hit.bm25, hit.distance)
    return next(score for score in scores if score is not None)


def _beginning(hit: Hit) -> str:
    text = " ".join(hit.text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
