"""Cutting sequences into segments."""

from collections.abc import Sequence

import torch
from torch import Tensor

SegmentLengths = int | Sequence[int] | None


def cut(
    input_ids: Tensor, attention_mask: Tensor | None, segment_lengths: SegmentLengths
) -> list[tuple[Tensor, Tensor]]:
    """The segments of (B, L) token ids, each with its mask; ValueError as `checked_mask` and `split_lengths` say."""
    mask = checked_mask(attention_mask, input_ids)
    lengths = split_lengths(input_ids.shape[1], segment_lengths)
    return list(zip(input_ids.split(lengths, dim=1), mask.split(lengths, dim=1), strict=True))


def split_lengths(num_tokens: int, segment_lengths: SegmentLengths) -> list[int]:
    """The lengths of the segments of a sequence.

    Args:
        num_tokens: tokens in the sequence.
        segment_lengths: None for one segment; an int for segments of that length, the last one shorter; or a list.

    Raises:
        ValueError: an empty sequence, a length below 1, or a list that does not add up to `num_tokens`.
    """
    if num_tokens < 1:
        raise ValueError("the input has 0 tokens; a segment needs at least 1")
    if segment_lengths is None:
        return [num_tokens]
    if isinstance(segment_lengths, int):
        if segment_lengths < 1:
            raise ValueError(f"segment_lengths is {segment_lengths}; a segment needs at least 1 token")
        full, rest = divmod(num_tokens, segment_lengths)
        return [segment_lengths] * full + ([rest] if rest else [])
    lengths = list(segment_lengths)
    if any(length < 1 for length in lengths):
        raise ValueError(f"segment_lengths is {lengths}; a segment needs at least 1 token")
    if sum(lengths) != num_tokens:
        raise ValueError(f"segment_lengths {lengths} add up to {sum(lengths)}; the input has {num_tokens} tokens")
    return lengths


def checked_mask(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """The mask of (B, L) token ids, all ones for None; ValueError where either has another shape."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids have the shape {tuple(input_ids.shape)}; expected (batch, tokens)")
    if attention_mask is None:
        return torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}; input_ids are {tuple(input_ids.shape)}")
    return attention_mask
