"""Which parts of anchored vectors earn their place: each taken away, or changed, and trained for as many tokens.

    python -m benchmarks.ablations --data CORPUS --out runs/ablations

Every trial begins from the untouched base, takes the same rows in the same order, and is asked about the same windows
of the `valid` documents. A trial that is in OUT is not run again; the table is written anew after each.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.trials import DEFAULT, TRIALS, Reader, Trial, Uniform
from model import AutoCompressor
from model.bases.known import resolve_base
from model.compressors.anchored import Anchored
from training.bases.adapters import Adapted
from training.bases.loading import loaded_base
from training.bases.references import plain_base
from training.data.batches import Batches, Part
from training.data.documents import load_documents
from training.data.sources import Source
from training.loop.optimisation import build_optimisers, set_learning_rates
from training.objectives.distillation import Distilling, Rows, divergence
from training.objectives.layouts import Kind, Layout
from training.recipes.recipe import Compression, Distillation, Recipe
from training.recipes.smollm import smollm

KINDS: tuple[Kind, ...] = ("continuing", "reciting", "asking")


class Bench:
    """The data, the base and the windows that all trials share."""

    def __init__(
        self, recipe: Recipe, data: Path, *, context: int, tail: int, batch: int, steps: int, windows: int, cache: Path
    ) -> None:
        """Args: recipe: whose base, rates and adapter all trials have."""
        self.context, self.tail, self.steps = context, tail, steps
        self.bounds: dict[str, tuple[float, float]] = {}  # by the kind of tail: losses after nothing, and in full
        assert recipe.base.name is not None
        self.path = plain_base(resolve_base(recipe.base.name))
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.path)
        source = Source.parse(str(data))
        self.batches = Batches(
            [Part(load_documents(source.files("train"), self.tokenizer, cache))],
            sequence_tokens=context + tail,
            batch_sequences=batch,
            num_steps=steps,
            seed=3,
        )
        self.stage = replace(
            recipe.adaptation,
            tokens=steps * batch * (context + tail),
            sequence_tokens=context + tail,
            batch_sequences=batch,
            warmup_steps=8,
        )
        self.recipe = recipe
        files = load_documents(source.files("valid"), self.tokenizer, cache)
        self.windows = [row for file in files for row in _spread(file, context + tail, windows)]

    def compression(self, trial: Trial) -> Compression:
        distillation = Distillation(
            context_tokens=self.context,
            cut_tokens=self.context // 2,
            whole=0.0 if trial.is_cut else 1.0,
            reciting=trial.reciting,
            asking=trial.asking,
            windowed=0.0,
            expanded=0.0,
            unrelated=0.0,
            among=0.0,
            thinned=0.0,
        )
        is_anchored = trial.writer != "summary tokens"
        return replace(
            self.recipe.compression,
            summary_length=self.context // trial.ratio,
            segment_length=self.context,
            segments_per_substep=2,
            max_segment_tokens=self.context,
            compressor="anchored" if is_anchored else "summary_tokens",
            distillation=distillation if is_anchored else None,
        )

    def model(self, trial: Trial) -> Adapted:
        recipe: Recipe = replace(self.recipe, compression=self.compression(trial), adaptation=self.stage)
        base, _ = loaded_base(recipe.base, str(self.path))
        adapted = Adapted.of(base, recipe, self.tokenizer, seed=0)
        model = adapted.model
        if trial.writer == "uniform":
            assert isinstance(model.writer, Anchored)
            writer = model.writer
            model.writer = Uniform(model.bridge, writer._vocabulary, writer.layers, writer._num_vectors)
        if not trial.has_bridge:
            model.bridge.requires_grad_(requires_grad=False)
        if not trial.has_lora and model.adapter is not None:
            for parameter in model.adapter.parameters():
                parameter.requires_grad_(requires_grad=False)
        if not trial.has_spans:
            features = model.bridge.features
            model.bridge.features = lambda states, places: _without_spans(features(states, places))  # type: ignore[method-assign]
        return adapted


def run(bench: Bench, trial: Trial) -> dict[str, Any]:
    """Train a trial, and its share of the gap by what the tail is."""
    reader = Reader(trial, bench.model(trial), bench.context)
    compression = bench.compression(trial)
    settings = compression.distillation or bench.compression(replace(trial, writer="anchored")).distillation
    assert settings is not None
    objective = Distilling(compression, settings, bench.tokenizer, seed=0)
    optimisers = build_optimisers(reader.model, bench.stage) if _trains(reader.model) else []
    reader.model.base.eval()
    divergences = []
    for step in tqdm(range(bench.steps), desc=trial.name, unit=" steps"):
        set_learning_rates(optimisers, step, bench.stage)
        rows = bench.batches.batch(step)
        loss = _loss(reader, objective.rewritten(rows, objective.draw(len(rows), step=step), step=step))
        loss.backward()
        for optimiser in optimisers:
            parameters = [each for group in optimiser.param_groups for each in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        divergences.append(float(loss.detach()))
    return {"closed": dict(_closed(bench, reader, objective)), "losses": divergences}


def _trains(model: AutoCompressor) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def _loss(reader: Reader, rows: Rows) -> Tensor:
    tokens = rows.tokens
    if reader.trial.loss == "kl":
        return divergence(reader.teach(tokens), reader.student(tokens)).mean()
    if reader.trial.loss == "words":
        # the masks are of what follows each token of a tail; here its first token is predicted too
        is_scored, is_gold = (functional.pad(each[:, :-1], (1, 0)) for each in (rows.is_scored, rows.is_gold))
        found = reader.student(tokens)
        surprise = functional.cross_entropy(
            found.float().transpose(1, 2), tokens[:, reader.context :], reduction="none"
        )
        each = divergence(reader.teach(tokens), found) + DEFAULT.gold * surprise * is_gold
        return (each * is_scored).sum() / is_scored.sum()
    if reader.trial.writer == "summary tokens":
        lengths = [reader.context, tokens.shape[1] - reader.context]
        output = reader.model(tokens, segment_lengths=lengths, labels=tokens)
        assert output.loss is not None
        loss: Tensor = output.loss
        return loss
    return functional.cross_entropy(reader.student(tokens).float().transpose(1, 2), tokens[:, reader.context :])


@torch.no_grad()
def _closed(bench: Bench, reader: Reader, objective: Distilling) -> Iterator[tuple[str, float]]:
    """(none - vectors) / (none - in full) of the summed losses of all windows, by the kind of tail."""
    for kind in KINDS:
        rows = [
            objective.rewritten(row[None], [Layout(kind, (bench.context,))], step=10**6 + number).tokens
            for number, row in enumerate(bench.windows)
        ]
        if kind not in bench.bounds:  # the untouched base's, so the same for all trials
            bench.bounds[kind] = (_summed(reader.without, rows, bench), _summed(reader.teach, rows, bench))
        none, full = bench.bounds[kind]
        yield kind, (none - _summed(reader.student, rows, bench)) / (none - full)


def _summed(form: Callable[[Tensor], Tensor], rows: Sequence[Tensor], bench: Bench) -> float:
    """The mean loss of each row's tail, over all rows."""
    return sum(
        float(functional.cross_entropy(form(row).float().transpose(1, 2), row[:, bench.context :])) for row in rows
    )


def _spread(file: Any, length: int, count: int) -> list[Tensor]:
    """Windows of a file of documents at equal distances."""
    starts = file.windows(length)
    chosen = starts[:: max(1, len(starts) // count)][:count]
    return [torch.from_numpy(file.run(int(start), length)) for start in chosen]


def _without_spans(features: Tensor) -> Tensor:
    half = features.shape[-1] // 2
    return torch.cat([features[..., :half], torch.zeros_like(features[..., half:])], dim=-1)


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | goes on | recites | answers | training loss, last fifth |", "|---|---:|---:|---:|---:|"]
    for name, result in found.items():
        shares = " | ".join(f"{result['closed'][kind]:.0%}" for kind in KINDS)
        last = result["losses"][-len(result["losses"]) // 5 :] or [float("nan")]
        lines.append(f"| {name} | {shares} | {sum(last) / len(last):.3f} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="A folder with `train` and `valid` files.")],
    out: Annotated[Path, typer.Option(help="Where results are kept.")],
    steps: Annotated[int, typer.Option(help="Of each trial.", min=1)] = 96,
    batch: Annotated[int, typer.Option(help="Rows a step.", min=1)] = 2,
    context: Annotated[int, typer.Option(help="Tokens that become vectors.", min=32)] = 256,
    tail: Annotated[int, typer.Option(help="Tokens after them, which are scored.", min=8)] = 96,
    windows: Annotated[int, typer.Option(help="Of each `valid` file.", min=1)] = 12,
    only: Annotated[list[str] | None, typer.Option(help="Trials whose names contain this; may be repeated.")] = None,
) -> None:
    """Train every trial for equally many tokens, and print what share of the gap each closes."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "ablations.json"
    settings = {"steps": steps, "batch": batch, "context": context, "tail": tail, "windows": windows}
    kept = json.loads(results.read_text()) if results.exists() else {"settings": settings, "trials": {}}
    if kept["settings"] != settings:
        raise typer.BadParameter(f"{results} is of {kept['settings']}, and these are {settings}; choose another --out")
    found: dict[str, Any] = kept["trials"]
    cache = Path("~/.cache/autocompressor/tokens").expanduser()
    bench = Bench(smollm(), data, context=context, tail=tail, batch=batch, steps=steps, windows=windows, cache=cache)
    for trial in TRIALS:
        if trial.name in found or (only and not any(part in trial.name for part in only)):
            continue
        found[trial.name] = run(bench, trial)
        results.write_text(json.dumps(kept, indent=1))
        (out / "ablations.md").write_text(table(found))
        typer.echo(table({trial.name: found[trial.name]}))


if __name__ == "__main__":
    typer.run(main)
