"""Windows drawn from the documents: the same for every method and every run of a seed."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.data.documents import TokenisedDocuments
from training.evaluation.windows import DomainWindows

logger = logging.getLogger(__name__)


def drawn(documents: TokenisedDocuments, length: int, count: int, *, seed: int) -> DomainWindows | None:
    """At most `count` windows that do not overlap, from as many documents as possible; None where none is so long."""
    chosen = places(documents, length, count, seed=seed)
    if not chosen:
        return None
    tokens = np.stack([documents.run(place, length) for _, place in chosen])
    return DomainWindows(tokens, np.array([document for document, _ in chosen]))


def places(documents: TokenisedDocuments, length: int, count: int, *, seed: int) -> list[tuple[int, int]]:
    """Of the windows that `drawn` draws: their documents, ascending, and where among all tokens they begin.

    Each round takes one window of every document, in an order drawn anew, until there are enough.
    """
    random = np.random.default_rng(seed)
    waiting = [_starts(start, end, length, random) for start, end in _bounds(documents)]
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and any(waiting):
        for document in random.permutation(len(waiting)):
            if waiting[document] and len(chosen) < count:
                chosen.append((int(document), waiting[document].pop()))
    return sorted(chosen)


def drawn_by_domain(
    documents: Mapping[str, TokenisedDocuments], length: int, count: int, *, seed: int
) -> dict[str, DomainWindows]:
    """Windows of each domain; one without a document long enough is left out, with a warning.

    Raises:
        ValueError: none is left.
    """
    found = {}
    for name, each in documents.items():
        windows = drawn(each, length, count, seed=seed)
        if windows is None:
            logger.warning("%s is left out: none of its documents has %d tokens", name, length)
        else:
            found[name] = windows
    if not found:
        total = sum(each.num_documents for each in documents.values())
        raise ValueError(f"none of the {total} documents of {', '.join(documents)} has {length:,} tokens")
    return found


def described(windows: Mapping[str, DomainWindows]) -> str:
    """How many documents and windows there are of each domain."""
    sizes = (f"{name} {len(set(each.documents.tolist()))} ({len(each)})" for name, each in windows.items())
    return f"Documents (windows): {', '.join(sizes)}."


def _bounds(documents: TokenisedDocuments) -> NDArray[np.int64]:
    return np.stack([documents.starts[:-1], documents.starts[1:]], axis=1)


def _starts(start: int, end: int, length: int, random: np.random.Generator) -> list[int]:
    """Where windows begin that lie end to end from a random place on, in a random order."""
    room = int(end - start) - length
    if room < 0:
        return []
    first = int(start) + int(random.integers(0, min(room, length - 1) + 1))
    return [int(place) for place in random.permutation(np.arange(first, end - length + 1, length))]
