"""Which passages a question's words speak of: BM25 (Robertson and Zaragoza, 2009), by the package `bm25s`."""

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

WORD = r"(?u)\b\w+\b"


class Passages:
    """Passages, found by words that they share with a question, but for the most common English ones."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._num_passages = len(texts)
        self._index: Any = None
        tokenised = bm25s.tokenize(list(texts), stopwords="en", token_pattern=WORD, show_progress=False)
        if any(tokenised.ids):
            self._index = bm25s.BM25()
            self._index.index(tokenised, show_progress=False)

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
