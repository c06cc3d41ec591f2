"""`python -m training`: from a folder of documents to an AutoCompressor checkpoint."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from model import AutoCompressor
from training.data import TokenisedDocuments, find_files, read_documents, tokenise
from training.evaluate import as_markdown, evaluate
from training.recipes import RECIPES, Recipe
from training.stages import adapt, pretrain
from training.tokenizer import train_tokenizer

logger = logging.getLogger("training")

DEFAULT_DATA = Path("../shared/corpus")
TOKENIZER_CHARACTERS = 200_000  # of each document: a vocabulary needs no more, and merges are counted in memory
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(help="A JSONL file (.jsonl, .gz, .zst), or a folder of them; `text` is read.")
    ] = DEFAULT_DATA,
    out: Annotated[
        Path | None, typer.Option(help="Where to write. A stage found finished there is not run again.")
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"One of: {', '.join(RECIPES)}.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Sets weights, order and segment lengths.")] = 0,
) -> None:
    """Pretrain a small base language model, then adapt it into an AutoCompressor (arXiv 2305.14788)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise typer.BadParameter("training needs --out")
    if recipe not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    chosen = RECIPES[recipe]()
    files = find_files(data, split="train")
    require_same_run(out / "run.json", {"recipe": recipe, "seed": seed, "files": [file.name for file in files]})
    if not (out / "checkpoint").exists():
        tokenizer = prepare_tokenizer(chosen, files, out / "tokenizer")
        documents = prepare_documents(files, tokenizer, out / "tokens.npz")
        base = prepare_base(chosen, documents, tokenizer, out / "base", seed=seed)
        model = adapt(chosen, base, documents, tokenizer, seed=seed).to(torch.bfloat16)
        with written_aside(out / "checkpoint") as directory:
            model.save_pretrained(directory)
    logger.info("the AutoCompressor is in %s", out / "checkpoint")


@app.command("evaluate")
def print_evaluation(
    checkpoint: Annotated[Path, typer.Option(help="An AutoCompressor checkpoint.")],
    data: Annotated[Path, typer.Option(help="A JSONL file of held-out documents, or a folder of them (*.test.*).")],
    segments: Annotated[int, typer.Option(help="The most segments of context.")] = 3,
    max_windows: Annotated[int, typer.Option(help="The most windows to score.")] = 400,
) -> None:
    """Print held-out perplexity without context, with compressed segments, and with them in full, as Markdown."""
    model = AutoCompressor.from_pretrained(checkpoint, dtype=torch.float32)
    files = find_files(data, split="test")
    rows = evaluate(model, files, num_segments=segments, max_windows=max_windows)
    typer.echo(as_markdown(rows))


def require_same_run(path: Path, arguments: dict[str, Any]) -> None:
    """Note what a run is of, and refuse to go on with the stages of another."""
    if path.is_file():
        stored = json.loads(path.read_text())
        if stored != arguments:
            raise typer.BadParameter(f"{path.parent} holds stages of {stored}; name another --out for {arguments}")
        return
    with written_aside(path) as aside:
        aside.write_text(json.dumps(arguments) + "\n")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it at the end: what is interrupted never looks finished."""
    aside = path.with_name(f"{path.name}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    if aside.is_dir():
        shutil.rmtree(aside)
    yield aside
    aside.rename(path)


def prepare_tokenizer(recipe: Recipe, files: list[Path], directory: Path) -> PreTrainedTokenizerBase:
    if not directory.is_dir():
        excerpts = (document[:TOKENIZER_CHARACTERS] for document in read_documents(files))
        trained = train_tokenizer(excerpts, vocabulary_size=recipe.vocabulary_size, max_positions=recipe.max_positions)
        with written_aside(directory) as aside:
            trained.save_pretrained(aside)
    return PreTrainedTokenizerFast.from_pretrained(directory)


def prepare_documents(files: list[Path], tokenizer: PreTrainedTokenizerBase, path: Path) -> TokenisedDocuments:
    if not path.is_file():
        documents = tokenise(read_documents(files), tokenizer, description="tokenising")
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, tokens=documents.tokens, starts=documents.starts)
    stored = np.load(path)
    return TokenisedDocuments(stored["tokens"], stored["starts"])


def prepare_base(
    recipe: Recipe, documents: TokenisedDocuments, tokenizer: PreTrainedTokenizerBase, directory: Path, *, seed: int
) -> LlamaForCausalLM:
    if not directory.is_dir():
        pretrained = pretrain(recipe, documents, tokenizer, seed=seed)
        with written_aside(directory) as aside:
            pretrained.save_pretrained(aside)
    return LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)


if __name__ == "__main__":
    app()
