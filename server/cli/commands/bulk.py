"""`autocompressor bulk`: files of many documents to files of their summary vectors."""

import importlib
import importlib.util
import os
from typing import Annotated

import typer

from server.cli import terminal
from server.cli.commands.checks import not_empty
from server.cli.terminal import Status
from server.settings import load_settings


def bulk(
    sources: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="JSONL (.jsonl, .ndjson) or Parquet: a file, a folder, a glob in quotes, or a URL, "
            "s3://BUCKET/FOLDER. May be given several times.",
            metavar="PATH",
        ),
    ],
    output: Annotated[str, typer.Option(help="Folder of the Parquet files that are made, or its URL.", metavar="PATH")],
    text: Annotated[str, typer.Option(help="The column of the text.", callback=not_empty)] = "text",
    id_: Annotated[
        str,
        typer.Option("--id", help="The column of the document's own id; without one it is the text's SHA-256."),
    ] = "id",
    metadata: Annotated[
        list[str] | None, typer.Option(help="A column to carry along. May be given several times.", metavar="COLUMN")
    ] = None,
    keep_text: Annotated[bool, typer.Option("--keep-text", help="Write the text and its token ids too.")] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Keep the summaries in this store too, as of `serve`: a server on it then has them."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As of `serve`.")] = None,
    actors: Annotated[
        int | None, typer.Option(help="Processes with a model each; one a GPU, else one a core.", min=1)
    ] = None,
    block_rows: Annotated[int, typer.Option(help="Input rows in one output file.", min=1)] = 512,
    together: Annotated[
        int,
        typer.Option(
            help="Documents that an actor computes at a time. More are faster on a GPU, and last bits then depend on "
            "which were computed together.",
            min=1,
            max=64,
        ),
    ] = 1,
) -> None:
    """Compress files of many documents, without a server, on this machine or a Ray cluster.

    autocompressor bulk --input 'passages/*.jsonl' --output vectors

    Each run of --block-rows input rows becomes one Parquet file of OUTPUT, a row a document in the input's order: `id`
    (as POST /compress gives it), `source_id`, `vectors` (bfloat16, num_vectors x width), `num_vectors`, `width`,
    `tokens`, `segments`, `ranks`, `text`, `token_ids`, `metadata`.

    After an interruption, run the same command again: files that are there and whole are not computed again. So it is
    with input that grew at its end.

    Rows that are no documents are in OUTPUT/rejected.jsonl, each with its file, its row and why; exit status 4.

    Model, device, salt and all else are settings of `serve`, as AUTOCOMPRESSOR_* variables. A running cluster is found
    by RAY_ADDRESS.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        terminal.stop("bulk compression needs its extra: pip install 'autocompressor[bulk]'")
    # actors have another working directory
    model = os.path.abspath(model) if model is not None and os.path.isdir(model) else model
    if store is not None and store.startswith("sqlite:") and not store.startswith("sqlite:/"):
        store = f"sqlite:{os.path.abspath(store.removeprefix('sqlite:'))}"
    given = {name: value for name, value in (("model", model), ("store", store)) if value is not None}
    # not at the top: they bring Ray and torch, and other commands do without
    command = importlib.import_module("server.bulk.command")
    try:
        # callers' keys are of HTTP; all is the operator's own here
        settings = load_settings({}, given).model_copy(update={"api_keys": None})
        done = command.run(
            sources,
            command.Job(
                output=output if "://" in output else os.path.abspath(output),
                columns=command.Columns(text, id_, tuple(metadata or ())),
                keep_text=keep_text,
                documents_together=together,
                store=store,
            ),
            settings,
            rows=block_rows,
            num_actors=actors,
        )
    except command.CannotRun as error:
        terminal.stop(str(error), Status.FAILED)
    except (ValueError, OSError) as error:
        terminal.stop(terminal.as_sentence(error))
    terminal.say(
        f"{done.num_new} compressed, {done.num_there} there already, {done.num_rejected} rejected; "
        f"{done.num_parts} files"
    )
    if done.num_rejected:
        raise typer.Exit(Status.PARTLY_FAILED if done.num_new + done.num_there else Status.FAILED)
