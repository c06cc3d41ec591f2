"""Held-out perplexity: without context, with compressed segments before it, and with the same context in full."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from model import AutoCompressor
from training.data import TokenisedDocuments, read_documents, tokenise

BATCH = 8
RESAMPLES = 2_000


@dataclass(frozen=True)
class Condition:
    """How many segments stand before the scored one, and whether as summary vectors or in full."""

    num_segments: int
    is_compressed: bool

    @property
    def label(self) -> str:
        if not self.num_segments:
            return "no context"
        plural = "s" if self.num_segments > 1 else ""
        return f"{self.num_segments} segment{plural} {'compressed' if self.is_compressed else 'in full'}"


@dataclass(frozen=True)
class Row:
    """One condition's result.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of all scored tokens.
        change, low, high: of that mean against no context, in nats, with a 95% bootstrap interval over documents.
    """

    condition: Condition
    perplexity: float
    change: float
    low: float
    high: float


def evaluate(model: AutoCompressor, files: Sequence[Path], *, num_segments: int, max_windows: int) -> list[Row]:
    """Score the last segment of windows of `num_segments + 1` segments, every condition on the same tokens.

    The scored segment's first token is left out: without context nothing predicts it.

    Args:
        num_segments: the most segments of context. max_windows: spread evenly over all that the documents hold.

    Raises:
        ValueError: no document is long enough, or the window does not fit the model's positions in full.
    """
    segment_length = model.segment_length
    length = (num_segments + 1) * segment_length
    if length > model.positions.capacity(0, 0):
        raise ValueError(f"{length} tokens do not fit the model's {model.max_positions} positions in full")
    assert model.tokenizer is not None
    documents = tokenise(read_documents(files), model.tokenizer, description="tokenising")
    starts = documents.windows(length)
    if len(starts) == 0:
        raise ValueError(f"no document has {length} tokens")
    starts = starts[np.linspace(0, len(starts) - 1, min(max_windows, len(starts))).astype(np.int64)]
    owners = np.searchsorted(documents.starts, starts, side="right")
    conditions = [
        Condition(0, is_compressed=False),
        *(Condition(count, is_compressed=True) for count in range(1, num_segments + 1)),
        *(Condition(count, is_compressed=False) for count in range(1, num_segments + 1)),
    ]
    windows = list(_windows(documents, starts, length))
    losses = {condition: _losses(model, windows, condition) for condition in conditions}
    return [_row(condition, losses[condition], losses[conditions[0]], owners) for condition in conditions]


def _windows(documents: TokenisedDocuments, starts: NDArray[np.int64], length: int) -> Iterator[Tensor]:
    for first in range(0, len(starts), BATCH):
        rows = [documents.tokens[start : start + length].astype(np.int64) for start in starts[first : first + BATCH]]
        yield torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def _losses(model: AutoCompressor, windows: Sequence[Tensor], condition: Condition) -> NDArray[np.float64]:
    """Mean negative log-likelihood of each window's scored tokens, (windows,)."""
    segment_length = model.segment_length
    means = []
    for batch in tqdm(windows, desc=condition.label, unit=" batches", leave=False):
        num_context = condition.num_segments * segment_length
        tokens = batch[:, batch.shape[1] - segment_length - num_context :].to(model.device)
        segment_lengths = segment_length if condition.is_compressed else None
        logits = model(tokens, segment_lengths=segment_lengths).logits[:, -segment_length:-1].float()
        targets = tokens[:, 1 - segment_length :]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        means.append(losses.unflatten(0, targets.shape).mean(dim=1).cpu())
    return torch.cat(means).double().numpy()


def _row(
    condition: Condition, losses: NDArray[np.float64], without: NDArray[np.float64], owners: NDArray[np.int64]
) -> Row:
    change = losses - without
    by_document = [change[owners == owner] for owner in np.unique(owners)]
    sums = np.array([part.sum() for part in by_document])
    counts = np.array([len(part) for part in by_document])
    drawn = np.random.default_rng(0).integers(0, len(by_document), (RESAMPLES, len(by_document)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return Row(condition, math.exp(losses.mean()), float(change.mean()), float(low), float(high))


def as_markdown(rows: Sequence[Row]) -> str:
    """A table; the last column is the share of the gap that summaries close, (none - summaries) / (none - full)."""
    full = {row.condition.num_segments: row.change for row in rows if not row.condition.is_compressed}
    lines = [
        "| context | perplexity | change of loss (95% interval over documents), nats | share of the gap closed |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        condition = row.condition
        interval = f"{row.change:+.4f} ({row.low:+.4f} to {row.high:+.4f})" if condition.num_segments else ""
        share = f"{row.change / full[condition.num_segments]:.0%}" if condition.is_compressed else ""
        lines.append(f"| {condition.label} | {row.perplexity:.2f} | {interval} | {share} |")
    return "\n".join(lines)
