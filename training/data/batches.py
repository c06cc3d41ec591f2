"""The order of training sequences: set by a seed, and known for any step without those before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.documents import TokenisedDocuments


@dataclass(frozen=True)
class Part:
    """One source: its tokenised files, and its weight against the others', None for its share of the sequences."""

    documents: Sequence[TokenisedDocuments]
    weight: float | None = None


class Batches:
    """Sequences that each lie within one document, from several sources, for a given number of steps.

    Every source goes through a random order of its own, anew each epoch; which source a sequence is from is drawn by
    weight. A step's batch depends on the seed and the step alone, so a run resumes at any step, and on any number of
    processes.
    """

    def __init__(
        self, parts: Sequence[Part], *, sequence_tokens: int, batch_sequences: int, num_steps: int, seed: int
    ) -> None:
        """Raises:
        ValueError: some sources have a weight and some have none, one has no sequence, or all have fewer than a batch.
        """
        self.sequence_tokens, self.batch_sequences, self.seed = sequence_tokens, batch_sequences, seed
        self._files = [list(part.documents) for part in parts]
        self._starts = [[file.windows(sequence_tokens) for file in files] for files in self._files]
        counts = np.array([sum(map(len, starts)) for starts in self._starts])
        for files, count in zip(self._files, counts, strict=True):
            if not count:
                names = ", ".join(file.name for file in files)
                raise ValueError(f"no document in {names} has the {sequence_tokens} tokens of a training sequence")
        if counts.sum() < batch_sequences:
            raise ValueError(
                f"the documents hold {counts.sum()} runs of {sequence_tokens} tokens; a batch needs {batch_sequences}"
            )
        given = [part.weight for part in parts if part.weight is not None]
        if given and len(given) < len(parts):
            raise ValueError(f"{len(given)} of {len(parts)} sources have a weight: give one to all of them, or to none")
        weights = np.array(given) if given else counts.astype(float)
        drawn = np.random.default_rng([seed, 0]).choice(
            len(parts), size=(num_steps, batch_sequences), p=weights / weights.sum()
        )
        self._sources = drawn.astype(np.int32)
        # a sequence's number among those of its own source, (steps, batch)
        self._ordinals = np.zeros_like(drawn)
        for source in range(len(parts)):
            of_source = drawn == source
            self._ordinals[of_source] = np.arange(of_source.sum())
        self._counts = counts
        self._order = cache(self._draw_order)

    @property
    def num_sequences(self) -> int:
        """Different sequences that the documents hold."""
        return int(self._counts.sum())

    @property
    def used_share(self) -> float:
        """Of all tokens, those in sequences; the rest is in short documents and at ends."""
        num_tokens = sum(len(file.tokens) for files in self._files for file in files)
        return self.num_sequences * self.sequence_tokens / num_tokens

    def batch(self, step: int, rows: slice = slice(None)) -> Tensor:
        """The sequences of a step, or some of its rows, (rows, L), int64."""
        found = [self._place(step, row) for row in range(*rows.indices(self.batch_sequences))]
        return torch.from_numpy(np.stack([file.run(start, self.sequence_tokens) for file, start in found]))

    def names(self, step: int, rows: slice = slice(None)) -> list[str]:
        """Where the sequences of a step are from: file, document from 1, and token within it."""
        named = []
        for row in range(*rows.indices(self.batch_sequences)):
            file, start = self._place(step, row)
            document = int(np.searchsorted(file.starts, start, side="right"))
            named.append(f"{file.name} document {document} token {start - int(file.starts[document - 1])}")
        return named

    def _place(self, step: int, row: int) -> tuple[TokenisedDocuments, int]:
        source = int(self._sources[step, row])
        epoch, index = divmod(int(self._ordinals[step, row]), int(self._counts[source]))
        chosen = int(self._order(source, epoch)[index])
        for file, starts in zip(self._files[source], self._starts[source], strict=True):
            if chosen < len(starts):
                return file, int(starts[chosen])
            chosen -= len(starts)
        raise AssertionError(f"sequence {chosen} is beyond the source's last")

    def _draw_order(self, source: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 1, source, epoch]).permutation(int(self._counts[source]))
