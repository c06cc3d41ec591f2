"""`autocompressor generate`: text after a prompt, conditioned on summaries."""

from pathlib import Path
from typing import Annotated

import typer

from autocompressor import AutocompressorError
from server.cli.commands import documents
from server.cli.commands.checks import finite, no_empty, positive
from server.cli.commands.session import Session, with_session
from server.limits import MAX_EXPANDED, MAX_SEED, MAX_TEMPERATURE

Summaries = Annotated[list[str] | None, typer.Option("--summary", "-s", help="A summary's id; may be repeated.")]
Files = Annotated[
    list[Path] | None, typer.Option("--file", "-f", help="A document, compressed where it is not stored.")
]
Expand = Annotated[
    int | None,
    typer.Option(
        help="Read so many segments, which the prompt speaks of most, as the text that was kept.",
        min=1,
        max=MAX_EXPANDED,
    ),
]


@with_session
async def generate(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="What to continue; - for stdin.")],
    summary: Summaries = None,
    file: Files = None,
    expand: Expand = None,
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
    top_p: Annotated[
        float | None,
        typer.Option(help="Least set of tokens that holds so much probability.", max=1, callback=positive),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="So many tokens to choose from.", min=1)] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Least share of the most likely token's probability.", min=0, max=1, callback=finite),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.", min=0, max=MAX_SEED)] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends it; may be repeated.", callback=no_empty)
    ] = None,
) -> None:
    """Continue a prompt, conditioned on summaries; the text is printed as it comes."""
    text = documents.piped(prompt)
    ids = await documents.summary_ids(session.client, summary or (), file or (), keep_text=expand is not None)
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "min_p": min_p}
    choices = sampling | {"top_k": top_k, "seed": seed, "stop": stop}
    if session.is_json:
        session.give(await session.client.generate(text, summary_ids=ids, expand=expand, **choices), "")  # type: ignore[arg-type]
        return
    has_begun = False
    try:
        async for chunk in session.client.stream(text, summary_ids=ids, expand=expand, **choices):  # type: ignore[arg-type]
            has_begun = True
            typer.echo(chunk.text, nl=False)
    except AutocompressorError:
        if has_begun:
            typer.echo()
        raise
    typer.echo()
