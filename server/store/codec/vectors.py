"""The bytes of a segment's summary vectors: a safetensors file, as computed or as int8."""

from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.int8 import dequantised, quantised
from server.store.codec.record import FingerprintMismatch, as_corrupt, require, text
from server.store.codec.tensors import DTYPES, MARKS, NAMES, SCALES, VECTORS, Part, checksum, opened, parts_of

VECTORS_FORMAT = "autocompressor-vectors-1"
RANKED_FORMAT = "autocompressor-ranked-vectors-1"  # with marks beside them
INT8_FORMAT = "autocompressor-int8-vectors-1"  # with scales, and with marks or without


def encode_segment(
    summary: SegmentSummary, *, fingerprint: str, notes: Mapping[str, str] | None = None, as_int8: bool = False
) -> bytes:
    """Encode summary vectors, (S, D), of a dtype in `DTYPES`, finite and on the CPU; ValueError if they are not.

    Their ranks and anchors, where they have some, stand beside them as int32.

    Args:
        notes: go into the file's metadata, outside of its checksum.
        as_int8: where that loses nothing, as of vectors that were rounded; others are encoded as they are.
    """
    vectors = summary.vectors
    if vectors.dtype not in DTYPES.values() or vectors.ndim != 2 or not vectors.numel() or vectors.device.type != "cpu":
        raise ValueError(
            f"summary vectors must be (S, D) of {', '.join(DTYPES)} on the CPU, "
            f"not {tuple(vectors.shape)} of {vectors.dtype} on {vectors.device}"
        )
    if not torch.isfinite(vectors).all():
        raise ValueError("summary vectors must be finite")
    tensors = (_int8_tensors(vectors) if as_int8 else None) or {VECTORS: vectors.detach().contiguous()}
    marks = zip(MARKS, (summary.ranks, summary.anchors), strict=True)
    tensors |= {name: mark.to(torch.int32).contiguous() for name, mark in marks if mark is not None}
    parts = [Part.of(name, tensor) for name, tensor in tensors.items()]
    metadata = {"format": _format(parts), "fingerprint": fingerprint}
    if SCALES in tensors:
        metadata["dtype"] = NAMES[vectors.dtype]
    return safetensors.torch.save(tensors, {**(notes or {}), **metadata, "sha256": _checksum(parts, metadata)})


def decode_segment(data: bytes, *, fingerprint: str) -> SegmentSummary:
    """Return the summary that was encoded, in memory of its own, its vectors in the dtype that they had.

    Raises:
        CorruptRecord: `data` is not what `encode_segment` made.
        FingerprintMismatch: it is of another model than `fingerprint`.
    """
    with as_corrupt("a record of summary vectors"):
        header, payload = opened(data)
        metadata = header.pop("__metadata__")
        stored = text(metadata["fingerprint"])
        parts = parts_of(header, payload)
        require(metadata["format"] == _format(parts), f"the format is not {_format(parts)}")
        require(metadata["sha256"] == _checksum(parts, metadata), "the checksum differs")
        tensors = {part.name: part.tensor() for part in parts}
        vectors = tensors[VECTORS]
        if SCALES in tensors:
            vectors = dequantised(vectors, tensors[SCALES], DTYPES[metadata["dtype"]])
        require(bool(torch.isfinite(vectors).all()), "not all values are finite")
        marks = [tensors[name].long() if name in tensors else None for name in MARKS]
        for mark in marks:
            require(mark is None or mark.shape == vectors.shape[:1], "a mark is not of each vector")
            require(mark is None or int(mark.min()) >= 0, "a mark is negative")
    if stored != fingerprint:
        raise FingerprintMismatch(stored=stored, expected=fingerprint)
    return SegmentSummary(vectors, *marks)


def decode_notes(data: bytes) -> dict[str, str]:
    """The metadata of an encoded file of vectors, its notes among it; CorruptRecord where there is none."""
    with as_corrupt("a file of summary vectors"):
        header, _ = opened(data)
        return {text(name): text(value) for name, value in header["__metadata__"].items()}


def _int8_tensors(vectors: Tensor) -> dict[str, Tensor] | None:
    """Vectors as int8 and their scales; None where these would not give them back to the bit."""
    whole, scales = quantised(vectors)
    if not torch.equal(dequantised(whole, scales, vectors.dtype), vectors):
        return None
    return {VECTORS: whole, SCALES: scales}


def _format(parts: Sequence[Part]) -> str:
    if any(part.name == SCALES for part in parts):
        return INT8_FORMAT
    return VECTORS_FORMAT if len(parts) == 1 else RANKED_FORMAT


def _checksum(parts: Sequence[Part], metadata: Mapping[str, Any]) -> str:
    about = [_format(parts), text(metadata["fingerprint"])]
    return checksum(parts, *about, *([text(metadata["dtype"])] if _format(parts) == INT8_FORMAT else ()))
