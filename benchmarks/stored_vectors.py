"""What int8 vectors lose against vectors as computed: loss of the next tokens, on the same windows, and bytes.

    python -m benchmarks.stored_vectors CORPUS --split valid --windows 16

Windows are drawn as the suite `perplexity` draws them: segments of a document, then the tokens that are scored.
Prints Markdown.
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from model.compressors import SegmentSummary
from model.int8 import as_rounded
from server.store.codec import encode_segment
from training.bench.drawing import drawn_by_domain
from training.bench.reader import Reader, Summaries, joined
from training.commands.shared import DEFAULT_CACHE
from training.data.domains import documents_by_domain

SCORED = 192  # tokens
SEGMENTS = 4


def nats(reader: Reader, tail: torch.Tensor, rows: Summaries | None) -> torch.Tensor:
    """The mean loss of each window's scored tokens, (B,)."""
    losses = reader.losses(tail, SCORED, None if rows is None else joined(rows))
    assert losses is not None, f"{SEGMENTS} segments and {SCORED} tokens exceed the model's positions"
    return losses.mean(dim=1)


def num_bytes(rows: Summaries, *, as_int8: bool) -> float:
    """Of a segment's record, on average."""
    flat: list[SegmentSummary] = [one.on_cpu() for row in rows for one in row]
    return sum(len(encode_segment(one, fingerprint="0" * 64, as_int8=as_int8)) for one in flat) / len(flat)


def main(
    corpus: Annotated[Path, typer.Argument(help="A folder of `DOMAIN.SPLIT.jsonl.zst`.")],
    checkpoint: Annotated[Path, typer.Option(help="That reads segments alone.")] = Path("model/default"),
    split: Annotated[Literal["test", "valid"], typer.Option()] = "valid",
    windows: Annotated[int, typer.Option(help="Of each domain.", min=1)] = 16,
) -> None:
    """Print the table."""
    reader = Reader.load(checkpoint, None)
    if not reader.model.config.reads_alone:
        raise ValueError("later segments of this model read the vectors of earlier ones, which are not rounded here")
    documents = documents_by_domain(corpus, split, reader.tokenizer, DEFAULT_CACHE)
    length = SEGMENTS * reader.model.segment_length + SCORED + 1
    print(f"{windows} windows a domain, {SEGMENTS} segments before {SCORED} scored tokens, {reader.model.dtype}\n")
    print("| domain | no summary | as computed | int8 | int8 less computed | a segment's record |")
    print("|---|---:|---:|---:|---:|---:|")
    for domain, drawn in drawn_by_domain(documents, length, windows, seed=0).items():
        found: list[torch.Tensor] = []
        sizes: list[tuple[float, float]] = []
        for tokens in torch.from_numpy(drawn.tokens).long().split(1):
            tail = tokens[:, -SCORED - 1 :]
            (rows,) = reader.newest(tokens[:, : -SCORED - 1], (SEGMENTS,)).values()
            small = [[as_rounded(one) for one in row] for row in rows]
            found.append(torch.stack([nats(reader, tail, each) for each in (None, rows, small)], dim=1))
            sizes.append((num_bytes(rows, as_int8=False), num_bytes(small, as_int8=True)))
        losses = torch.cat(found).double()  # (windows, 3)
        none, computed, int8 = losses.mean(dim=0).tolist()
        lost = losses[:, 2] - losses[:, 1]
        interval = 1.96 * lost.std().item() / len(lost) ** 0.5
        before, after = (sum(each) / len(sizes) for each in zip(*sizes, strict=True))
        cells = [f"{none:.4f}", f"{computed:.4f}", f"{int8:.4f}", f"{lost.mean():+.4f} ± {interval:.4f}"]
        print("|", " | ".join([domain, *cells, f"{before:,.0f} → {after:,.0f} bytes"]), "|", flush=True)


if __name__ == "__main__":
    typer.run(main)
