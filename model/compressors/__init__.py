"""How a segment becomes summary vectors: one file for each way, behind one protocol."""

from model.compressors.anchored import Anchored, Bridge, default_layers
from model.compressors.anchors import Vocabulary
from model.compressors.summary_tokens import SummaryTokens, new_embeddings
from model.compressors.writer import FIRST_LOSS, Reading, SegmentSummary, Writer

WRITERS = ("summary_tokens", "anchored")

__all__ = [
    "FIRST_LOSS",
    "WRITERS",
    "Anchored",
    "Bridge",
    "Reading",
    "SegmentSummary",
    "SummaryTokens",
    "Vocabulary",
    "Writer",
    "default_layers",
    "new_embeddings",
]
