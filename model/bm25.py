"""Which passages a question's words speak of: BM25 (Robertson and Zaragoza, 2009), by the package `bm25s`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import bm25s
import numpy as np
from numpy.typing import NDArray

WORD = r"(?u)\b\w+\b"


class Passages:
    """Passages, found by words that they share with a question, but for the most common English ones."""

    def __init__(self, texts: Sequence[str], *, shows_progress: bool = False) -> None:
        self._num_passages = len(texts)
        self._index: Any = None
        tokenised = bm25s.tokenize(list(texts), stopwords="en", token_pattern=WORD, show_progress=shows_progress)
        if any(tokenised.ids):
            self._index = bm25s.BM25()
            self._index.index(tokenised, show_progress=shows_progress)

    @classmethod
    def open(cls, folder: Path, num_passages: int) -> Self:
        """What `save` wrote of so many passages; most of it stays on the disk until it is read.

        Raises:
            ValueError, OSError: something else is there.
        """
        opened = cls([])
        opened._num_passages = num_passages
        if folder.exists():
            index = bm25s.BM25.load(folder, mmap=True)
            if index.scores["num_docs"] != num_passages:
                raise ValueError(f"{folder} is of {index.scores['num_docs']} passages, not {num_passages}")
            opened._index = index
        return opened

    def save(self, folder: Path) -> None:
        """Write it to a folder, which is not made where the passages have no words."""
        if self._index is not None:
            self._index.save(folder, show_progress=False)

    def scores(self, question: str) -> NDArray[np.float32]:
        """How much each passage speaks of a question; 0 where they share no word."""
        (words,) = bm25s.tokenize([question], stopwords="en", token_pattern=WORD, show_progress=False, return_ids=False)
        words = list(dict.fromkeys(words))
        if self._index is None or not words:
            return np.zeros(self._num_passages, np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(words)
        return scores

    def best(self, question: str, count: int) -> list[int]:
        """The numbers of the best passages, the best first; of equals the earlier."""
        return [int(number) for number in np.argsort(-self.scores(question), kind="stable")[:count]]

    def matches(self, question: str, count: int) -> list[tuple[int, float]]:
        """As `best`, with their scores: those alone that share a word with the question."""
        scores = self.scores(question)
        found = np.flatnonzero(scores > 0)
        if len(found) > count:  # no sort of millions
            least = np.partition(scores[found], -count)[-count]
            found = found[scores[found] >= least]
        order = np.argsort(-scores[found], kind="stable")[:count]
        return [(int(number), float(scores[number])) for number in found[order]]
