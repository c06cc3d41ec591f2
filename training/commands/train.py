"""`train` of the command line: a run from its flags, to its report."""

import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator

from model.precision import computes_in_bfloat16
from training.commands.overrides import MACHINE, WHAT, Overrides, with_override_flags
from training.commands.shared import DEFAULT_CACHE, stop
from training.data.sources import SUFFIXES, Source
from training.evaluation.checkpoints import evaluate_checkpoint
from training.evaluation.scores import LABELS
from training.evaluation.tables import as_markdown
from training.loop.processes import make_accelerator
from training.loop.stopping import StopRequest
from training.loop.trainer import Interrupted
from training.planning.devices import DEVICES
from training.planning.plan import as_text, plan
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Recipe
from training.run.identity import require_same_run
from training.run.report import write_report
from training.run.stages import Run

logger = logging.getLogger(__name__)

REPORT_WINDOWS = 16  # of each domain of the report's table: a look, where `evaluate` measures


@with_override_flags
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(help=f"What to start from: {', '.join(RECIPES)}.", rich_help_panel=WHAT)
    ] = "tiny",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help=f"PATH or PATH=WEIGHT: a file ({', '.join(SUFFIXES)}; `text` is read), a folder of them, or "
            "`datasets:NAME[:CONFIG][@N]`, streamed, its first N documents. Give it again for several.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write. A run that stopped goes on when the same command is given again.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Sets weights, order and segment lengths.", min=0, rich_help_panel=MACHINE)
    ] = 0,
    is_sharded: Annotated[
        bool,
        typer.Option(
            "--shard", help="Shard weights over all processes (FSDP), not only batches (DDP).", rich_help_panel=MACHINE
        ),
    ] = False,
    save_minutes: Annotated[
        float, typer.Option(help="Between two snapshots.", min=0.0, rich_help_panel=MACHINE)
    ] = 10.0,
    cache: Annotated[
        Path, typer.Option(help="Where tokenised documents are kept.", rich_help_panel=MACHINE)
    ] = DEFAULT_CACHE,
    is_planned: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print parameters, tokens, FLOPs, time and memory, and stop.", rich_help_panel=MACHINE
        ),
    ] = False,
    on: Annotated[str, typer.Option(help=f"For --plan: {', '.join(DEVICES)}.", rich_help_panel=MACHINE)] = "h200-141gb",
    devices: Annotated[int, typer.Option(help="For --plan: how many of them.", min=1, rich_help_panel=MACHINE)] = 1,
    **changes: Any,
) -> None:
    """Adapt a language model into an AutoCompressor (arXiv 2305.14788), pretraining a small one first if need be.

    OUT ends with `checkpoint`, which `autocompressor serve --model` loads and any Hugging Face tool reads as the base
    model, and `report`. `torchrun -m training ...` and `accelerate launch -m training ...` use more devices.
    """
    if context.invoked_subcommand is not None:
        return
    overrides = Overrides(**changes)
    try:
        chosen = overrides.apply(_known(recipe, RECIPES, "recipe")())
        if is_planned:
            device = _known(on, DEVICES, "device")
            typer.echo(as_text(plan(chosen, device, num_devices=devices, is_sharded=is_sharded)))
            return
        if out is None or not data:
            raise ValueError("training needs --data and --out; --plan needs neither")
        sources = [Source.parse(each) for each in data]
        if overrides.precision is None:
            chosen = _within_reach(chosen)
        accelerator = make_accelerator(precision=chosen.precision, is_sharded=is_sharded)
        _log_on(accelerator)
        run = Run(out, chosen, sources, seed=seed, cache=cache, accelerator=accelerator, save_minutes=save_minutes)
        require_same_run(out / "run.json", run)
        _train_and_report(run)
    except (ValueError, OSError) as error:
        stop(str(error))


def _within_reach(recipe: Recipe) -> Recipe:
    """In float32 where the recipe says bfloat16 and this machine has no instructions for it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.precision == "no" or computes_in_bfloat16(device):
        return recipe
    typer.echo(
        f"this {device.type} has no bfloat16 instructions: training in float32 (--precision bf16 insists)", err=True
    )
    is_distilled = recipe.compression.distillation is not None
    base = replace(recipe.base, dtype="float32") if is_distilled else recipe.base
    return replace(recipe, base=base, precision="no")


def _train_and_report(run: Run) -> None:
    """Raises:
    typer.Exit: 128 and the signal's number where one stopped the run, 1 where a loss was not finite.
    """
    stop, directory = StopRequest(), run.directory / "report"
    try:
        with stop.heeded():
            run.train(stop)
    except Interrupted as interruption:
        logger.info("%s", interruption)
        raise typer.Exit(128 + (stop.signal_number or signal.SIGTERM)) from None
    except FloatingPointError as error:
        typer.echo(f"training: {error}; a lower --learning-rate needs another --out", err=True)
        raise typer.Exit(1) from None
    if run.accelerator.is_main_process:
        if not directory.is_dir():  # a finished run's says where it took place
            write_report(directory, run=run.directory, recipe=run.recipe, evaluation=_held_out_table(run))
        logger.info("the AutoCompressor is in %s, what to look at in %s", run.checkpoint, directory)


def _held_out_table(run: Run) -> str:
    """Perplexity on the `valid` files beside the training files, or a sentence that says why there is none."""
    folders = [Path(source.path) for source in run.sources if Path(source.path).is_dir()]
    if not folders:
        return "No held-out documents: of a folder, `NAME.valid.jsonl` is measured here."
    try:
        evaluation = evaluate_checkpoint(
            run.checkpoint,
            folders[0],
            split="valid",
            max_windows=REPORT_WINDOWS,
            cache=run.cache,
            device=run.accelerator.device,
            label=LABELS.get(run.recipe.compression.method),
        )
    except ValueError as error:
        return f"No table of held-out documents: {error}."
    return as_markdown(evaluation)


def _known(name: str, choices: dict[str, Any], kind: str) -> Any:
    if name not in choices:
        raise ValueError(f"there is no {kind} {name!r}; there are: {', '.join(choices)}")
    return choices[name]


def _log_on(accelerator: Accelerator) -> None:
    level = logging.INFO if accelerator.is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
