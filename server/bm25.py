"""Which texts a query's words speak of: BM25 (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework").

With the constants and the inverse document frequency that Lucene has, under which no word counts against a text.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

SATURATION = 1.2  # k1: how soon a word that comes again adds no more
LENGTH_WEIGHT = 0.75  # b: how far a long text's words count for less


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"\w+", text.casefold())


def relevances(query: str, texts: Sequence[str]) -> list[float]:
    """How relevant each of the texts is to the query; 0 where they share no word."""
    wanted = dict.fromkeys(words(query))
    counts = [Counter(words(text)) for text in texts]
    lengths = [count.total() for count in counts]
    mean_length = max(1.0, sum(lengths) / max(1, len(lengths)))
    rarity = {}
    for word in wanted:
        num_with = sum(word in count for count in counts)
        rarity[word] = math.log(1 + (len(texts) - num_with + 0.5) / (num_with + 0.5))
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        damping = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / mean_length)
        scores.append(sum(rarity[word] * count[word] / (count[word] + damping) for word in wanted))
    return scores
