"""Vectors of segments that were read lately, in this process's memory, before the store.

What stands under a segment's key never changes: the key is a hash of the model, the tenant's salt and the text. So a
copy cannot be wrong, and all that could be is to answer for what is deleted or expired. Segments are therefore asked
for here only under a manifest that was read from the store for the same request: while a manifest lives, the store
keeps its segments, whichever server put or lengthened it, and when it is gone nobody asks. Whether segments are
stored, as a document that is to be stored wants to know, is asked of the store alone.
"""

from threading import Lock

from cachetools import LRUCache

from model.compressors import SegmentSummary
from server.metrics import Metrics

ENTRY_BYTES = 2560  # of Python objects around the numbers, measured: a key, a summary, three tensors


class MemoryTier:
    """The most recently read segments, up to so many bytes."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        """`max_bytes`: 0 keeps nothing."""
        self._kept: LRUCache[str, SegmentSummary] = LRUCache(max_bytes, getsizeof=_size)
        self._lock = Lock()  # records are decoded in threads
        self._metrics = metrics

    def get(self, key: str) -> SegmentSummary | None:
        """A segment's summary, not to be written to; None where it was not read lately."""
        with self._lock:
            found = self._kept.get(key)
        self._metrics.tier_lookups.labels(result="miss" if found is None else "hit").inc()
        return found

    def keep(self, key: str, summary: SegmentSummary) -> None:
        """Keep what the store has under a segment's key, in place of what was not asked for the longest."""
        if _size(summary) > self._kept.maxsize:
            return
        with self._lock:
            self._kept[key] = summary
            self._metrics.tier_bytes.set(self._kept.currsize)


def _size(summary: SegmentSummary) -> int:
    parts = (summary.vectors, summary.ranks, summary.anchors)
    return ENTRY_BYTES + sum(part.nbytes for part in parts if part is not None)
