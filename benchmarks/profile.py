"""Where a step of the default model spends its time, by kind of work: see `--help`."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import torch
import typer
from matplotlib import pyplot as plt
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine
from benchmarks.lookup import Profile, lookup
from benchmarks.subject import greedy, random_ids
from model import AutoCompressor
from server.engine.detokenizer import Detokenizer
from server.engine.torch.attention import Options, Run, SdpaKernels
from server.engine.torch.devices import choose_dtype
from server.engine.torch.packed import PackedModel
from server.engine.torch.requests import Compression, Generation, Phase, Piece
from server.engine.torch.runner import Runner
from server.engine.torch.sampler import random_stream

READ, ROWS, SEGMENTS = 256, (1, 8, 32), 4
PRODUCTS = ("mkldnn::_linear_pointwise", "aten::linear", "aten::addmm", "aten::mm")
KINDS = (
    "products",
    "logits",
    "attention",
    "norms",
    "rotary",
    "activation",
    "copies and casts",
    "views",
    "sampling",
    "losses and writing",
    "other",
)
WHOLE = ("attention", "logits", "sampling", "losses and writing")  # products within them are theirs
BETWEEN = "Python, dispatch"
COPIES = ("copy_", "cat", "clone", "contiguous", "index", "fill", "zero", "to", "stack", "pad", "embedding")
OF_NAMES = {"roll": "rotary", "mul": "rotary", "addcmul_": "rotary", "index_put_": "attention", "silu": "activation"}
VIEWS = ("as_strided", "slice", "view", "transpose", "select", "split", "narrow", "expand", "unflatten", "reshape")


class WatchedKernels(SdpaKernels):
    """The engine's kernels, whose operators are told from others'."""

    def prefill(self, runs: Sequence[Run], options: Options) -> Tensor:
        with record_function("attention"):
            return super().prefill(runs, options)

    def decode(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        with record_function("attention"):
            return super().decode(query, keys, values, lengths, options)


class Bench:
    """A runner of the default model, and pieces for it as the scheduler would give them."""

    def __init__(self, checkpoint: Path, *, fuses: bool) -> None:
        self.model = AutoCompressor.from_pretrained(
            checkpoint, dtype=choose_dtype("auto", torch.device("cpu")), device="cpu"
        )
        self._packed = PackedModel(self.model, WatchedKernels(), num_rows=max(ROWS), max_tokens=2 * READ, fuses=fuses)
        self._runner = Runner(self._packed)
        self._watch()

    def _watch(self) -> None:
        """Have what each module does recorded under its kind; a decoder that is fused has no modules, but names."""
        ends = {"RMSNorm": "norms", "RotaryEmbedding": "rotary", "Attention": "rotary", "MLP": "activation"}
        for module in self.model.base.base_model.modules():
            for end, kind in ends.items():
                if type(module).__name__.endswith(end):
                    _recorded(module, kind)
        fused = self._packed._fused
        for layer in () if fused is None else fused._layers:
            for norm in ("_before_attention", "_before_mlp"):
                setattr(layer, norm, _as("norms", getattr(layer, norm)))
        _recorded(self.model.base.get_output_embeddings(), "logits")
        self.model.write = _as("losses and writing", self.model.write)  # type: ignore[method-assign]
        self._runner._sample = _as("sampling", self._runner._sample)  # type: ignore[method-assign]

    def decode(self, num_rows: int) -> Callable[[], Any]:
        """One token more for each of some generations, of which the last was the 257th position."""
        requests = [self._generation(index) for index in range(num_rows)]
        self._runner.run([Piece(request, Phase.PREFILL, READ) for request in requests])
        for request in requests:
            request.num_known, request.generated = READ, [request.prompt_ids[0]]
        pieces = [Piece(request, Phase.DECODE, 1) for request in requests]
        return lambda: self._runner.run(pieces)

    def segments(self) -> Callable[[], Any]:
        length = self.model.segment_length
        ids = [random_ids(length, seed) for seed in range(SEGMENTS)]
        request = Compression(lambda _: None, None, 0, segments=ids, reads_alone=True)
        pieces = [Piece(request, Phase.SEGMENT, length, index) for index in range(SEGMENTS)]
        return lambda: self._runner.run(pieces)

    def _generation(self, row: int) -> Generation:
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        ids = tuple(random_ids(READ, row))
        request = Generation(
            lambda _: None, None, 0, ids, greedy(16), Detokenizer(tokenizer, (), ()), random_stream(row)
        )
        request.row = row
        return request


def _recorded(module: Any, kind: str) -> None:
    module.forward = _as(kind, module.forward)


def _as(kind: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(*args: Any, **options: Any) -> Any:
        with record_function(kind):
            return compute(*args, **options)

    return recorded


def profiled(step: str, run: Callable[[], Any], repeats: int) -> Profile:
    """Time a step, then ask torch's profiler how its operators share it; of both the run that took least.

    The profiler makes operators slower, small ones the most: what they took is told from it, and the rest of the time
    that the step takes without it is that of Python and of dispatch between them.
    """
    walls = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        run()
        if number:
            walls.append(1000 * (time.perf_counter() - started))
    wall = min(walls)
    spent, calls = min((_operators(run) for _ in range(repeats)), key=lambda found: found[0].total())
    kinds = {kind: spent[kind] for kind in KINDS} | {BETWEEN: max(0.0, wall - spent.total())}
    return Profile(step, wall, kinds, {kind: calls[kind] for kind in KINDS})


def _operators(run: Callable[[], Any]) -> tuple[Counter[str], Counter[str]]:
    """Of one run the milliseconds in operators and how many there were, by kind."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    spent, calls = Counter[str](), Counter[str]()
    for event in profiler.events():
        if event.name not in KINDS:  # what is around operators: its own time is Python's
            spent[_kind(event)] += event.self_cpu_time_total / 1000  # type: ignore[assignment]
            calls[_kind(event)] += 1
    return spent, calls


def _kind(event: FunctionEvent) -> str:
    """Of an operator or of what is recorded around some: products by their own names, others by what is around them."""
    name = event.name
    around = _around(event)
    if name.startswith(PRODUCTS):
        return around if around in WHOLE else "products"
    if around is not None:
        return around
    plain = name.rpartition("::")[2]
    if plain in OF_NAMES:
        return OF_NAMES[plain]
    if plain.startswith(VIEWS):
        return "views"
    return "copies and casts" if plain.lstrip("_").startswith(COPIES) else "other"


def _around(event: FunctionEvent) -> str | None:
    parent = event.cpu_parent
    while parent is not None and parent.name not in KINDS:
        parent = parent.cpu_parent
    return None if parent is None else str(parent.name)


def as_markdown(profiles: Sequence[Profile]) -> str:
    """Milliseconds a step, and beside them how many operators were called."""
    kinds = list(profiles[0].kinds)
    lines = [f"| ms | {' | '.join(each.step for each in profiles)} |", f"|---|{'---:|' * len(profiles)}"]
    for kind in kinds:
        cells = [
            f"{each.kinds[kind]:.2f}" + (f" ({each.calls[kind]})" if each.calls.get(kind) else "") for each in profiles
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| all | {' | '.join(f'{each.wall:.2f}' for each in profiles)} |"])


def draw(before: Sequence[Profile], after: Sequence[Profile], path: Path) -> None:
    """A bar for each step, divided by kinds, beside it one of an earlier run with transformers' modules."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(after), figsize=(2.6 * len(after), 4.2))
    kinds, colours = list(after[0].kinds), plt.get_cmap("tab20")
    for axis, step in zip(axes, after, strict=True):
        earlier = [each for each in before if each.step == step.step]
        for place, each in enumerate([*earlier, step]):
            bottom = 0.0
            for number, kind in enumerate(kinds):
                axis.bar(
                    place, each.kinds[kind], bottom=bottom, color=colours(number), label=kind if each is step else None
                )
                bottom += each.kinds[kind]
        axis.set_xticks(range(len(earlier) + 1), [*(["modules"] * len(earlier)), "fused"])
        axis.set_title(step.step, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("milliseconds")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=130)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Option(help="An AutoCompressor.")] = machine.ROOT / "model" / "default",
    eager: Annotated[
        bool, typer.Option(help="Leave the layers to transformers' modules, as for architectures that are not known.")
    ] = False,
    before: Annotated[
        Path | None, typer.Option(help="What a run with --eager wrote with --json, to be drawn beside.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw them (PNG).")] = None,
    repeats: Annotated[int, typer.Option(help="How often a step is run, without the profiler and with it.", min=1)] = 8,
) -> None:
    """Where a step of the default model spends its time.

    A decode step of 1, 8 and 32 generations after 256 positions each, a step of four segments of 128 tokens, and
    `/compress` of a stored document; how each divides is told by torch's profiler, of the lookup by cProfile. All are
    of the run that took least. In brackets: how many operators were called; what none took is Python and dispatch.

    To draw what is gained: `--eager --json modules.json`, then `--before modules.json --picture picture.png`.
    """
    bench = Bench(checkpoint, fuses=not eager)
    steps = {f"decode, {count} {'row' if count == 1 else 'rows'}": bench.decode(count) for count in ROWS}
    steps[f"{SEGMENTS} segments of {bench.model.segment_length}"] = bench.segments()
    profiles = [profiled(step, run, repeats) for step, run in steps.items()]
    typer.echo(as_markdown(profiles))
    with tempfile.TemporaryDirectory() as folder:
        stored = lookup(checkpoint, Path(folder), 10 * repeats)
    typer.echo("\n" + as_markdown([stored]))
    if out is not None:
        figures = {"machine": machine.describe(), "profiles": [asdict(each) for each in (*profiles, stored)]}
        out.write_text(json.dumps(figures, indent=2) + "\n")
    if picture is not None:
        earlier = [] if before is None else [Profile(**each) for each in json.loads(before.read_text())["profiles"]]
        draw(earlier, profiles, picture)


if __name__ == "__main__":
    app()
