"""BM25 over a few passages, by the package `bm25s`."""

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np


class Passages:
    """Passages, found by words that they share with a question."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Args: texts: one passage each, at least one of them with a word."""
        self._num_passages = len(texts)
        self._index: Any = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)

    def best(self, question: str, count: int) -> list[int]:
        """The numbers of the best passages, the best first; of equals the earlier."""
        (words,) = bm25s.tokenize([question], stopwords="en", show_progress=False, return_ids=False)
        scores = self._index.get_scores(words) if words else np.zeros(self._num_passages)
        return [int(number) for number in np.argsort(-scores, kind="stable")[:count]]
