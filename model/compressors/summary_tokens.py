"""The paper's way: learned summary tokens after a segment, whose last hidden states are its vectors."""

from torch import Tensor, nn

from model.compressors.writer import Reading, SegmentSummary


class SummaryTokens:
    """Summary tokens (arXiv 2305.14788, section 3.1). They see their segment and what is before it."""

    layers: tuple[int, ...] = ()
    reads_losses = False
    is_ordered = False

    def __init__(self, embed_summary: nn.Embedding) -> None:
        """`embed_summary`: the tokens' embeddings, (S, D); the model's, which trains and saves them."""
        self._embed_summary = embed_summary

    @property
    def num_appended(self) -> int:
        return self._embed_summary.num_embeddings

    def appended(self) -> Tensor:
        return self._embed_summary.weight

    def write(self, reading: Reading) -> list[SegmentSummary]:
        return [SegmentSummary(vectors) for vectors in reading.appended]
