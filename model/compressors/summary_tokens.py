"""The paper's way: learned summary tokens after a segment, whose last hidden states are its vectors."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.base import embedding_width, first_token_id
from model.compressors.writer import Reading, SegmentSummary


def new_embeddings(base: PreTrainedModel, num_tokens: int) -> nn.Embedding:
    """Summary tokens, each starting as the end-of-text token (arXiv 2305.14788, section 4.1), or as the mean of all."""
    embed_summary = nn.Embedding(num_tokens, embedding_width(base), dtype=base.dtype, device=base.device)
    if not num_tokens or base.device.type == "meta":
        return embed_summary
    token_id = first_token_id(base.config, "eos_token_id")
    embeddings = base.get_input_embeddings()
    with torch.no_grad():
        if token_id is None:
            start = embeddings.weight.mean(dim=0)
        else:
            start = embeddings(torch.tensor([token_id], device=base.device))
        embed_summary.weight.copy_(start.expand(num_tokens, -1))
    return embed_summary


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
