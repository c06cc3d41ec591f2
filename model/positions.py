"""Where soft prompt, segment and summary tokens stand on a model's position axis: the one place that knows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """The position rule of one base model.

    Rotary (and plain learned) positions number `[soft prompt | segment | summary tokens]` straight through, and so
    the soft prompt takes room from the segment. OPT numbers segment tokens alone: soft prompt and summary tokens take
    the padding position (arXiv 2305.14788, section 3.1), and a segment may be as long as the position table.
    """

    max_positions: int
    counts_soft_prompt: bool

    @classmethod
    def of(cls, config: Any) -> "Positions":
        """Read the rule off a transformers configuration; ValueError where it names no number of positions."""
        max_positions = getattr(config, "max_position_embeddings", None)
        if not isinstance(max_positions, int):
            raise ValueError(
                f"the {config.model_type} architecture has no max_position_embeddings: its length limit is unknown"
            )
        return cls(max_positions, counts_soft_prompt=config.model_type != "opt")

    def capacity(self, soft_prompt_length: int, summary_length: int) -> int:
        """The most tokens that fit between a soft prompt and summary tokens of these lengths; may be negative."""
        if self.counts_soft_prompt:
            return self.max_positions - soft_prompt_length - summary_length
        return self.max_positions

    def default_segment_length(self) -> int:
        """OPT: the middle of the paper's 1024 to 2048 at 2048 positions. Others leave half to the soft prompt."""
        return self.max_positions // 2 if self.counts_soft_prompt else self.max_positions * 3 // 4

    def ids(self, attention_mask: Tensor, soft_prompt_length: int, summary_length: int) -> Tensor:
        """Position ids of `[soft prompt | tokens | summary tokens]`; masked tokens are skipped in the count.

        Args:
            attention_mask: (B, L), 1 for tokens and 0 for padding.

        Returns:
            (B, P + L + S), int64. OPT's -1 is the padding row of its table, which transformers offsets by 2.
        """
        batch = attention_mask.shape[0]
        mask = attention_mask.long()
        if self.counts_soft_prompt:
            before = mask.new_ones(batch, soft_prompt_length)
            after = mask.new_ones(batch, summary_length)
            counted = torch.cat([before, mask, after], dim=1).cumsum(dim=1)  # (B, P + L + S)
            return (counted - 1).clamp(min=0)
        before = mask.new_full((batch, soft_prompt_length), -1)
        after = mask.new_full((batch, summary_length), -1)
        return torch.cat([before, mask.cumsum(dim=1) * mask - 1, after], dim=1)

    def of_token(self, index: int, soft_prompt_length: int) -> int:
        """The position id of an unpadded token, the first after the soft prompt having index 0."""
        return index + soft_prompt_length if self.counts_soft_prompt else index
