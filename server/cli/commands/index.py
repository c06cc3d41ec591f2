"""`autocompressor index`: what bulk compression made, to an index that a server searches."""

import importlib
import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.cli import terminal
from server.cli.commands.checks import not_empty


class Kept(StrEnum):
    """As what vectors are kept."""

    BFLOAT16 = "bfloat16"
    INT8 = "int8"


def index(
    sources: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="Output of `autocompressor bulk --keep-text`: a folder, or its URL. May be given several times.",
            metavar="PATH",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the index, not there yet.", metavar="FOLDER")],
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Index the means of vectors too, for `--by nearest` and `--by both`.")
    ] = False,
    factory: Annotated[
        str,
        typer.Option(
            help="With --nearest: as faiss's index_factory describes indexes. Flat compares a query with every "
            "passage; SQ8 keeps a byte a number, IVF1024,PQ32 32 bytes a passage and looks at some of them.",
            callback=not_empty,
        ),
    ] = "Flat",
    vectors: Annotated[
        Kept, typer.Option(help="As what summary vectors are kept; int8 takes half the bytes.")
    ] = Kept.BFLOAT16,
) -> None:
    """Index what bulk compression made, for a server to search and to answer from.

    autocompressor bulk --keep-text --input 'passages/*.jsonl' --output vectors

    autocompressor index --input vectors --output index --nearest

    autocompressor serve --corpora library=index

    autocompressor ask library "Who keeps the lighthouse?"

    The index has all that is needed of the passages: words (BM25), texts, vectors. The bulk output may go afterwards.
    It is made beside FOLDER and renamed, so that one that is there is whole. Several folders become one index; all must
    be of one model, which is the one that a server needs for it.
    """
    if factory != "Flat" and not nearest:
        terminal.stop(f"--factory {factory!r} is of --nearest: give both, or neither")
    wanted = [*("pyarrow", "tqdm"), *(["faiss"] if nearest else [])]
    if any(importlib.util.find_spec(name) is None for name in wanted):
        terminal.stop("an index needs its extra: pip install 'autocompressor[search]'")
    # not at the top: it brings torch, and other commands do without
    indexing = importlib.import_module("server.bulk.indexing")
    try:
        made = indexing.build(sources, output, indexing.Wanted(vectors.value, factory if nearest else None))
    except (ValueError, OSError) as error:
        terminal.stop(terminal.as_sentence(error))
    num_bytes = sum(made.sizes.values())
    terminal.say(
        f"{made.num_passages} passages of {len(made.parts)} files, {num_bytes / 1e6:.1f} MB, "
        f"{num_bytes / made.num_passages:.0f} bytes a passage"
    )
