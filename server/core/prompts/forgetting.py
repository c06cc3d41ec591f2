"""How many vectors each segment keeps where there is not room for all: a curve of forgetting.

A segment of age a, 0 for the newest, keeps a share of its vectors in proportion to 1 / (1 + a), at most all: a power
law, as people's memory follows (Wixted and Ebbesen, 1991, "On the form of forgetting"). The newest stay whole, the
oldest keep their single most important vector, and none is lost before there are more segments than room.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HALVINGS = 64  # of an interval of doubles: as near as they come


def remembered(counts: Sequence[int], room: int, *, block: int = 1) -> tuple[int, ...]:
    """How many vectors each segment keeps: as many as there is room for, the newest segments most.

    Args:
        counts: vectors of each segment, the oldest first.
        room: for all of them.
        block: of segments. The room of those that are still to come in a begun block is kept free, and so what older
            ones keep changes once a block, not with each segment: what was computed of them can be used again.
    """
    if sum(counts) <= room:
        return tuple(counts)
    # where there is room for little more than a block, it goes to what is there
    coming = -len(counts) % block if room >= 2 * block * max(counts) else 0
    most = np.array([*counts, *[max(counts)] * coming], dtype=np.int64)[::-1]  # the newest first
    wanted = most / np.arange(1, len(most) + 1)
    least = np.minimum(most, 1 if len(most) <= room else 0)
    low, high = 0.0, float(len(most))  # with the latter every segment keeps all
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _kept(wanted * middle, least, most).sum() <= room else (low, middle)
    kept = _kept(wanted * low, least, most)
    while (rest := room - int(kept.sum())) > 0:
        kept[np.flatnonzero(kept < most)[:rest]] += 1
    return tuple(kept[::-1].tolist()[: len(counts)])


def in_proportion(counts: Sequence[int], room: int) -> tuple[int, ...]:
    """How many vectors each segment keeps of as many as there is room for: the same share of each, rounded."""
    total = sum(counts)
    if total <= room:
        return tuple(counts)
    # the differences of rounded running sums: they add up, and each is within one of its share
    ends = np.cumsum([0, *counts], dtype=np.int64) * room // total
    return tuple(np.diff(ends).tolist())


def _kept(wanted: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]) -> NDArray[np.int64]:
    kept: NDArray[np.int64] = np.clip(np.floor(wanted).astype(np.int64), least, most)
    return kept
