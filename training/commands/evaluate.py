"""`evaluate` of the command line: the tables of a checkpoint, or a suite of the bench."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from training.bench.options import Options
from training.bench.suites.catalogue import SUITES, run_suite
from training.commands.shared import DEFAULT_CACHE, stop
from training.evaluation.checkpoints import MAX_WINDOWS, evaluate_checkpoint
from training.evaluation.tables import as_markdown

BENCH = "The bench"


def print_evaluation(
    checkpoint: Annotated[Path, typer.Option(help="An AutoCompressor checkpoint.")],
    data: Annotated[
        Path, typer.Option(help="A folder of held-out documents, `DOMAIN.SPLIT.jsonl.zst` each, or a file.")
    ],
    split: Annotated[Literal["test", "valid"], typer.Option(help="Which files of the folder.")] = "test",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="LABEL=CHECKPOINT, measured on the same tokens, or LABEL=FILE.json, read. Repeatable."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="What the tables call the checkpoint; by its kind where it has summaries.")
    ] = None,
    max_windows: Annotated[int, typer.Option(help="The most windows of a domain to score.", min=1)] = MAX_WINDOWS,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write what the tables show, for --beside.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; auto takes CUDA where there is one.")] = "auto",
    cache: Annotated[Path, typer.Option(help="Where tokenised documents are kept.")] = DEFAULT_CACHE,
    suite: Annotated[
        str | None, typer.Option(help=f"Run a suite instead: {', '.join(SUITES)}.", rich_help_panel=BENCH)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for SUITE.json, SUITE.md and SUITE.png.", rich_help_panel=BENCH)
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Of what the suite counts; its own number if none.", rich_help_panel=BENCH)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draws the samples; 0 if none.", min=0, rich_help_panel=BENCH)
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="JSONL of paragraphs and questions; DATA if none.", rich_help_panel=BENCH)
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="JSONL of labelled texts, or a folder; DATA if none.", rich_help_panel=BENCH)
    ] = None,
) -> None:
    """Print held-out perplexity by domain as Markdown: without context, with compressed segments, and in full.

    With --suite, run one of the bench's suites and write its tables, its picture and its figures.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it builds
    try:
        others = dict(_labelled(each) for each in beside or ())
        given = {"out": out, "samples": samples, "seed": seed, "questions": questions, "tasks": tasks}
        if suite is not None:
            _refuse({"label": label, "json": json_file}, f"not with --suite {suite}")
            if out is None:
                raise ValueError(f"--suite {suite} needs --out, the folder to write to")
            flags: dict[str, Any] = {
                "split": split,
                "seed": seed or 0,
                "beside": others,
                "questions": questions,
                "tasks": tasks,
            }
            options = Options(suite, checkpoint, data, out, samples, cache, device=_device(device), **flags)
            typer.echo(run_suite(options).read_text())
            return
        _refuse(given, "only with --suite")
        evaluation = evaluate_checkpoint(
            checkpoint,
            data,
            split=split,
            beside=others,
            max_windows=max_windows,
            cache=cache,
            device=_device(device),
            label=label,
        )
        if json_file is not None:
            evaluation.write(json_file)
        typer.echo(as_markdown(evaluation))
    except (ValueError, OSError) as error:
        stop(str(error))


def _refuse(flags: dict[str, Any], when: str) -> None:
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: {when}")


def _labelled(text: str) -> tuple[str, Path]:
    label, mark, path = text.partition("=")
    if not mark or not path:
        raise ValueError(f"--beside {text!r}: expected LABEL=CHECKPOINT or LABEL=FILE.json")
    return label, Path(path)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
