"""Vectors as int8 with a scale each: half the bytes of bfloat16, and what was rounded once is never rounded again."""

from dataclasses import replace

import torch
from torch import Tensor

from model.compressors import SegmentSummary

MOST = 127  # of an int8


def quantised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors, (N, D), as int8 and the scale of each, (N,) float32: the largest component becomes 127."""
    wide = vectors.float()
    scales = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / MOST
    return (wide / scales[:, None]).round().to(torch.int8), scales


def dequantised(quantised_vectors: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Vectors, (N, D), of their int8 and scales, in the dtype that they had."""
    return (quantised_vectors.float() * scales[:, None]).to(dtype)


def rounded(vectors: Tensor) -> Tensor:
    """What int8 keeps of vectors, (N, D), in their dtype; of what is rounded already all, to the bit.

    127 scales have the same scale again, of whichever float32 (a test tries them all), and the dtype's own rounding
    moves the other components by less than half a scale, so that each finds its int8 again.
    """
    return dequantised(*quantised(vectors), vectors.dtype)


def as_rounded(summary: SegmentSummary) -> SegmentSummary:
    """A summary whose vectors are `rounded`."""
    return replace(summary, vectors=rounded(summary.vectors))
