"""Tiny models and made-up documents for the suites of the bench."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model import AutoCompressor, SummaryConfig
from model.adapter import Adapter
from tests.tiny import TEXT, tiny_base, tiny_compressor, tiny_tokenizer
from training.bench.options import Options

SEGMENT, VECTORS = 16, 4
POSITIONS = 2048


def compressor(*, summary_length: int = VECTORS, accumulate_summary: bool = True) -> AutoCompressor:
    return tiny_compressor(
        summary_length=summary_length,
        segment_length=SEGMENT,
        max_positions=POSITIONS,
        accumulate_summary=accumulate_summary,
    )


def anchored_compressor(summary_length: int = VECTORS, segment_length: int = SEGMENT) -> AutoCompressor:
    """One that reads each segment alone, whose adapter and bridge are random."""
    base = tiny_base("llama", max_positions=POSITIONS)
    adapter = Adapter.put_into(base, ("q_proj", "v_proj"), rank=2, alpha=2)
    config = SummaryConfig(summary_length, True, segment_length, "anchored", reads_alone=True, layers=(1, 2))
    model = AutoCompressor(base, config, tiny_tokenizer(), adapter).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in [*adapter.parameters(), model.bridge.states.weight]:
            weight.normal_(std=0.2)
    return model


def made_up(num_sentences: int, *, seed: int) -> str:
    """A document of the tiny text's sentences in another order."""
    sentences = [sentence.strip() for sentence in TEXT.replace("\n", " ").split(". ")]
    drawn = random.Random(seed)
    return ". ".join(drawn.choice(sentences) for _ in range(num_sentences)) + "."


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def corpus(directory: Path, *, num_documents: int = 2, num_sentences: int = 30) -> Path:
    """A folder of two domains, one of them with a training file."""
    for seed, domain in enumerate(("books", "law")):
        texts = [made_up(num_sentences, seed=10 * seed + number) for number in range(num_documents)]
        write_jsonl(directory / f"{domain}.test.jsonl", [{"text": text} for text in texts])
    write_jsonl(directory / "books.train.jsonl", [{"text": made_up(3, seed=99)}])
    return directory


def options_of(suite: str, directory: Path, **changes: Any) -> Options:
    """Of a suite that writes to `out` and reads `data` of a folder."""
    if "data" not in changes:
        changes["data"] = corpus(directory / "data")
    changes = {"samples": 2, "checkpoint": directory / "checkpoint"} | changes
    return Options(suite, out=directory / "out", cache=directory / "cache", **changes)


def cell(table: dict[str, Any], column: str, **where: str) -> Any:
    """The cell of a stored table in that column, of the row whose other cells are these."""
    header = table["header"]
    rows = [
        row
        for row in table["rows"]
        if all(row[header.index(name.replace("_", " "))] == value for name, value in where.items())
    ]
    assert len(rows) == 1, f"{len(rows)} rows of {where} in {table['title']}"
    return rows[0][header.index(column)]
