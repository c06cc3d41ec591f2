"""`python -m benchmarks`: the engine beside its peers, on the same weights, in one run."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import (
    anchored,
    compression,
    conversation,
    generation,
    interference,
    machine,
    questions,
    resident,
    serving,
    start,
)
from benchmarks.measuring import Row, as_markdown
from benchmarks.subject import Subject, make_model
from benchmarks.transformers_peer import Transformers
from benchmarks.vllm_peer import Vllm
from server.engine.torch.cores import in_a_thread_that_ends

GROUPS = ("generation", "compression", "questions", "serving", "interference", "conversation")
# of the default model, whose base has to be there: only where asked for
GROUPS_OF_DEFAULT = {"anchored": anchored.run, "start": start.run, "resident": resident.run}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    groups: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Which to measure: {', '.join(GROUPS)}, which are the default; and {', '.join(GROUPS_OF_DEFAULT)}."
        ),
    ] = None,
    vllm: Annotated[
        Path | None,
        typer.Option(help="The Python of an environment with vLLM's CPU build; without it, its rows are left out."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each side is measured.", min=1)] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write figures, machine and versions.")] = None,
) -> None:
    """Measure the engine and its peers in turns, and print a table of ratios against their targets."""
    unknown = sorted(set(groups or ()) - {*GROUPS, *GROUPS_OF_DEFAULT})
    if unknown:
        raise typer.BadParameter(
            f"there is no group {unknown[0]!r}; there are: {', '.join((*GROUPS, *GROUPS_OF_DEFAULT))}"
        )
    surroundings = machine.describe()
    if surroundings["load_before"] > machine.QUIET_LOAD:
        typer.echo(
            f"other work is running here (load {surroundings['load_before']:.1f}): figures will suffer", err=True
        )
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for row in _measured(set(groups or GROUPS), vllm, folder, rounds, stack, surroundings):
            typer.echo(f"{row.experiment} {row.what}: {row.value.median:.4g} {row.unit}", err=True)
            rows.append(row)
    typer.echo(as_markdown(rows))
    if out is not None:
        figures = [asdict(row) | {"is_met": row.is_met} for row in rows]
        out.write_text(json.dumps({"machine": surroundings, "rounds": rounds, "rows": figures}, indent=2) + "\n")


def _measured(
    groups: set[str], python: Path | None, folder: Path, rounds: int, stack: ExitStack, surroundings: dict[str, object]
) -> Iterator[Row]:
    default = machine.ROOT / "model" / "default"
    for name, measure in GROUPS_OF_DEFAULT.items():  # alone: a second engine beside them would take their cores
        if name in groups:
            yield from measure(default, folder, rounds=rounds)
    if not groups - GROUPS_OF_DEFAULT.keys():
        return
    model = folder / "random-30m"
    asyncio.run(in_a_thread_that_ends(make_model, model))
    subject = stack.enter_context(Subject(model, folder / "summaries.sqlite3"))
    transformers = stack.enter_context(Transformers(model, subject.dtype))
    surroundings["dtype"] = dtype = str(subject.dtype).removeprefix("torch.")
    vllm = on_vllm = None
    if python is not None and groups & {"generation", "compression", "questions"}:
        vllm = stack.enter_context(Vllm(python, model, folder, dtype=dtype))
        surroundings["vllm"] = vllm.version
    if python is not None and groups & {"generation", "compression"}:
        on_vllm = stack.enter_context(Vllm(python, model, folder, dtype=dtype, kind="ours"))
    if "generation" in groups:
        yield from generation.run(subject, transformers, vllm, on_vllm, rounds=rounds)
    if "compression" in groups:
        yield from compression.run(subject, transformers, vllm, on_vllm, rounds=rounds)
    if "questions" in groups:
        yield from questions.run(subject, vllm, rounds=rounds)
    if "interference" in groups:
        yield from interference.run(subject, rounds=rounds)
    if "serving" in groups:
        yield from serving.run(subject, model, folder, rounds=rounds)
    if "conversation" in groups:
        yield from conversation.run(model, folder, rounds=rounds)


if __name__ == "__main__":
    app()
