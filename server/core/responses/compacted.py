"""What a compaction item stands for, and its bytes.

A conversation that was compacted is a list of summaries: stored ones by their ids, or vectors that the item carries
itself, with the tokens they stand for. What was said to instruct the model, and what was asked last, is kept word for
word beside them. The bytes are one safetensors file; carried vectors are int8 with a scale each.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.int8 import dequantised, quantised
from server.core.documents.summaries import CarriedSegment, Summary
from server.core.responses.items import Item, decode_items, encode_items
from server.core.served_model import ServedModel
from server.store.codec import FingerprintMismatch, Manifest

Parts = tuple[str | tuple[CarriedSegment, ...], ...]  # stored summaries by their ids, or segments that are carried


@dataclass
class Cost:
    """What compacting took: document tokens, those of them whose vectors were stored, and vectors in all."""

    tokens: int = 0
    cached_tokens: int = 0
    vectors: int = 0


@dataclass(frozen=True)
class Compacted:
    """A conversation, compacted: `parts` in order, a stored summary's id or segments that are carried.

    Attributes:
        instructions: what systems and developers said, which stands before all else.
        rest: items after what the parts stand for.
    """

    parts: Parts = ()
    instructions: tuple[Item, ...] = ()
    rest: tuple[Item, ...] = ()


def encode(compacted: Compacted, *, fingerprint: str) -> bytes:
    """The bytes of an item, of the model of this fingerprint."""
    tensors: dict[str, Tensor] = {}
    described: list[str | list[int]] = []
    for place, part in enumerate(compacted.parts):
        if isinstance(part, str):
            described.append(part)
            continue
        described.append([len(segment.token_ids) for segment in part])
        vectors = torch.cat([segment.summary.vectors for segment in part])
        tensors[f"{place}.vectors"], tensors[f"{place}.scales"] = quantised(vectors)
        tensors[f"{place}.tokens"] = torch.tensor([token for segment in part for token in segment.token_ids]).int()
        tensors[f"{place}.lengths"] = torch.tensor([len(segment.summary) for segment in part]).int()
        for name in ("ranks", "anchors"):
            marks = [getattr(segment.summary, name) for segment in part]
            if all(mark is not None for mark in marks):
                tensors[f"{place}.{name}"] = torch.cat(marks).int()
    words = {
        "fingerprint": fingerprint,
        "parts": described,
        "instructions": encode_items(compacted.instructions).decode(),
        "rest": encode_items(compacted.rest).decode(),
    }
    tensors["words"] = torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def decode(data: bytes, *, fingerprint: str, dtype: torch.dtype) -> Compacted:
    """What `encode` made, its vectors in this dtype; whoever calls has seen by the seal that they are whole.

    Raises:
        FingerprintMismatch: it is of another model.
    """
    tensors = safetensors.torch.load(data)
    words = json.loads(tensors["words"].numpy().tobytes())
    if words["fingerprint"] != fingerprint:
        raise FingerprintMismatch(stored=words["fingerprint"], expected=fingerprint)
    return Compacted(
        tuple(
            part if isinstance(part, str) else tuple(_carried(tensors, place, part, dtype))
            for place, part in enumerate(words["parts"])
        ),
        decode_items(words["instructions"].encode()),
        decode_items(words["rest"].encode()),
    )


def as_summary(part: Sequence[CarriedSegment], model: ServedModel) -> Summary:
    """Carried segments as a summary that no store has; equal vectors have equal keys, as those that are computed do."""
    keys = tuple(_key(segment) for segment in part)
    tokens = tuple(len(segment.token_ids) for segment in part)
    manifest = Manifest(
        fingerprint=model.fingerprint,
        segments=keys,
        segment_tokens=tokens,
        vectors=model.num_vectors_of(tokens),
        created=0.0,
        has_text=True,
    )
    return Summary(_digest("".join(keys).encode()), manifest, dict(zip(keys, part, strict=True)))


def _carried(
    tensors: dict[str, Tensor], place: int, lengths: Sequence[int], dtype: torch.dtype
) -> Iterator[CarriedSegment]:
    counts = tensors[f"{place}.lengths"].tolist()
    vectors = dequantised(tensors[f"{place}.vectors"], tensors[f"{place}.scales"], dtype).split(counts)
    tokens = tensors[f"{place}.tokens"].split(list(lengths))
    marks = [
        [mark.long() for mark in tensors[name].split(counts)]
        if (name := f"{place}.{kind}") in tensors
        else [None] * len(counts)
        for kind in ("ranks", "anchors")
    ]
    for own, token_ids, ranks, anchors in zip(vectors, tokens, *marks, strict=True):
        yield CarriedSegment(SegmentSummary(own.clone(), ranks, anchors), tuple(token_ids.tolist()))


def _key(segment: CarriedSegment) -> str:
    return _digest(segment.summary.vectors.contiguous().view(torch.uint8).numpy().tobytes())


def _digest(data: bytes) -> str:
    """Of the form of a segment's key, and equal to none."""
    return hashlib.sha256(b"carried\0" + data).hexdigest()[:40]
