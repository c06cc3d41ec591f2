"""The bytes of a record: summary vectors as safetensors, manifests as JSON, both with a checksum.

Decoding takes any bytes, runs nothing that they say, and raises nothing but CorruptRecord and FingerprintMismatch.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.store.protocol import StoreError

VECTORS_FORMAT = "autocompressor-vectors-1"
RANKED_FORMAT = "autocompressor-ranked-vectors-1"  # with marks beside them
TEXT_FORMAT = "autocompressor-text-1"
MANIFEST_FORMAT = "autocompressor-manifest-1"

MAX_HEADER_BYTES = 2**20  # an export's has its manifest: metadata, and some 60 bytes a segment

# the names of https://github.com/huggingface/safetensors#format
DTYPES = MappingProxyType({"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32})
MARKS, MARK_DTYPE = ("ranks", "anchors"), "I32"
TENSOR_DTYPES = MappingProxyType({**DTYPES, MARK_DTYPE: torch.int32})
NAMES = MappingProxyType({dtype: name for name, dtype in TENSOR_DTYPES.items()})


class CorruptRecord(StoreError):
    """The bytes are not a whole record of the format that this program reads."""


class FingerprintMismatch(StoreError):
    """The record is whole, but of another model."""

    def __init__(self, *, stored: str, expected: str) -> None:
        super().__init__(f"the record is of model {stored!r}, and this model is {expected!r}")
        self.stored = stored
        self.expected = expected


@dataclass(frozen=True)
class Manifest:
    """What a summary id stands for: the chain of its document.

    `segments` are the segment keys in the order of the text, `segment_tokens` how many tokens each covers, `vectors`
    how many summary vectors they hold together, `created` in seconds since the epoch, `parent` the summary id of the
    document that this one continues, `tenant` whose list it is in, `has_text` whether the token ids of all segments are
    stored too.
    """

    fingerprint: str
    segments: tuple[str, ...]
    segment_tokens: tuple[int, ...]
    vectors: int
    created: float
    metadata: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    tenant: str | None = None
    has_text: bool = False

    def __post_init__(self) -> None:
        if len(self.segments) != len(self.segment_tokens):
            raise ValueError(f"{len(self.segments)} segments with {len(self.segment_tokens)} lengths")
        if not math.isfinite(self.created):
            raise ValueError(f"created must be finite, not {self.created}")


def encode_segment(summary: SegmentSummary, *, fingerprint: str, notes: Mapping[str, str] | None = None) -> bytes:
    """Encode summary vectors, (S, D), of a dtype in `DTYPES`, finite and on the CPU; ValueError if they are not.

    Their ranks and anchors, where they have some, stand beside them as int32. `notes` go into the file's metadata,
    outside of its checksum.
    """
    vectors = summary.vectors
    if vectors.dtype not in DTYPES.values() or vectors.ndim != 2 or not vectors.numel() or vectors.device.type != "cpu":
        raise ValueError(
            f"summary vectors must be (S, D) of {', '.join(DTYPES)} on the CPU, "
            f"not {tuple(vectors.shape)} of {vectors.dtype} on {vectors.device}"
        )
    if not torch.isfinite(vectors).all():
        raise ValueError("summary vectors must be finite")
    marks = {"ranks": summary.ranks, "anchors": summary.anchors}
    tensors = {"vectors": vectors.detach().contiguous()}
    tensors |= {name: mark.to(torch.int32).contiguous() for name, mark in marks.items() if mark is not None}
    parts = [_Part(name, NAMES[tensor.dtype], tuple(tensor.shape), _bytes(tensor)) for name, tensor in tensors.items()]
    version = VECTORS_FORMAT if len(parts) == 1 else RANKED_FORMAT
    metadata = {"format": version, "fingerprint": fingerprint, "sha256": _checksum(parts, fingerprint)}
    return safetensors.torch.save(tensors, metadata={**(notes or {}), **metadata})


def decode_segment(data: bytes, *, fingerprint: str) -> SegmentSummary:
    """Return the summary that was encoded, in memory of its own.

    Raises:
        CorruptRecord: `data` is not what `encode_segment` made.
        FingerprintMismatch: it is of another model than `fingerprint`.
    """
    with _as_corrupt("a record of summary vectors"):
        header, payload = _opened(data)
        metadata = header.pop("__metadata__")
        stored = _text(metadata["fingerprint"])
        parts = _parts(header, payload)
        version = VECTORS_FORMAT if len(parts) == 1 else RANKED_FORMAT
        _require(metadata["format"] == version, f"the format is not {version}")
        _require(metadata["sha256"] == _checksum(parts, stored), "the checksum differs")
        tensors = {part.name: _tensor(part) for part in parts}
        vectors = tensors["vectors"]
        _require(bool(torch.isfinite(vectors).all()), "not all values are finite")
        marks = [tensors[name].long() if name in tensors else None for name in MARKS]
        for mark in marks:
            _require(mark is None or mark.shape == vectors.shape[:1], "a mark is not of each vector")
            _require(mark is None or int(mark.min()) >= 0, "a mark is negative")
    if stored != fingerprint:
        raise FingerprintMismatch(stored=stored, expected=fingerprint)
    return SegmentSummary(vectors, *marks)


@dataclass(frozen=True)
class _Part:
    """A tensor of a record as the file describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    payload: bytes


def _opened(data: bytes) -> tuple[Any, bytes]:
    """The header and the tensors' bytes of a safetensors file, its length bounded before anything of it is parsed.

    It is read here: safetensors.torch.load leaves out the metadata, and raises errors of many kinds.
    """
    # 8 bytes of length and a JSON text; the tensors fill the rest
    length = int.from_bytes(data[:8], "little")
    _require(length <= MAX_HEADER_BYTES, f"the header has {length} bytes; the limit is {MAX_HEADER_BYTES}")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _parts(header: Any, payload: bytes) -> list[_Part]:
    """The tensors that a header describes, in the order of the checksum; together they are the whole payload."""
    names = [name for name in ("vectors", *MARKS) if name in header]
    _require(names[:1] == ["vectors"] and len(names) == len(header), "the tensors are not those of a summary")
    parts, spans = [], []
    for name in names:
        tensor = header[name]
        dtype = _text(tensor["dtype"])
        if name == "vectors":
            _require(dtype in DTYPES, "the dtype is none of summary vectors'")
            _require(len(tensor["shape"]) == 2, "the shape is not of two sizes")
        else:
            _require(dtype == MARK_DTYPE and len(tensor["shape"]) == 1, "a mark is not a row of int32")
        first, last = (_integer(offset) for offset in tensor["data_offsets"])
        spans.append((first, last))
        parts.append(_Part(name, dtype, tuple(_integer(size) for size in tensor["shape"]), payload[first:last]))
    spans.sort()
    ends = [0, *(last for _, last in spans)]
    _require([*(first for first, _ in spans), len(payload)] == ends, "the length is wrong")
    return parts


def _tensor(part: _Part) -> Tensor:
    dtype = TENSOR_DTYPES[part.dtype]
    _require(all(size > 0 for size in part.shape), "the shape is empty")
    _require(math.prod(part.shape) * dtype.itemsize == len(part.payload), "the shape does not fit the length")
    # a bytearray, because a tensor over bytes would be one that must not be written to
    return torch.frombuffer(bytearray(part.payload), dtype=dtype).reshape(part.shape)


def _checksum(parts: Sequence[_Part], fingerprint: str) -> str:
    """Over what the bytes are read as and the bytes; of vectors alone as it was before there were marks."""
    payload = b"".join(part.payload for part in parts)
    if len(parts) == 1:
        return _digest([VECTORS_FORMAT, fingerprint, parts[0].dtype, list(parts[0].shape)], payload)
    return _digest([RANKED_FORMAT, fingerprint, [[part.name, part.dtype, list(part.shape)] for part in parts]], payload)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes()


def decode_notes(data: bytes) -> dict[str, str]:
    """The metadata of an encoded file of vectors, its notes among it; CorruptRecord where there is none."""
    with _as_corrupt("a file of summary vectors"):
        header, _ = _opened(data)
        return {_text(name): _text(value) for name, value in header["__metadata__"].items()}


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON: equal manifests give equal bytes."""
    body = {**asdict(manifest), "format": MANIFEST_FORMAT}
    # as manifests were before there were lists, and before there were texts
    if manifest.tenant is None:
        del body["tenant"]
    if not manifest.has_text:
        del body["has_text"]
    return _canonical({**body, "sha256": _digest(body, b"")})


def decode_manifest(data: bytes, *, fingerprint: str) -> Manifest:
    """Return the manifest that was encoded.

    Raises:
        CorruptRecord: `data` is not what `encode_manifest` made.
        FingerprintMismatch: it is of another model than `fingerprint`.
    """
    with _as_corrupt("a manifest"):
        body = json.loads(data)
        _require(body["format"] == MANIFEST_FORMAT, f"the format is not {MANIFEST_FORMAT}")
        manifest = Manifest(
            fingerprint=_text(body["fingerprint"]),
            segments=tuple(_text(key) for key in body["segments"]),
            segment_tokens=tuple(_integer(tokens) for tokens in body["segment_tokens"]),
            vectors=_integer(body["vectors"]),
            created=float(body["created"]),
            metadata={_text(name): _text(value) for name, value in body["metadata"].items()},
            parent=None if body["parent"] is None else _text(body["parent"]),
            tenant=_text(body["tenant"]) if "tenant" in body else None,
            has_text=body.get("has_text") is True,
        )
        # the encoding is canonical, so this compares the checksum and everything beside it
        _require(data == encode_manifest(manifest), "the checksum or the form differs")
    if manifest.fingerprint != fingerprint:
        raise FingerprintMismatch(stored=manifest.fingerprint, expected=fingerprint)
    return manifest


def encode_text(token_ids: Sequence[int], *, fingerprint: str) -> bytes:
    """Encode a segment's token ids as canonical JSON."""
    body = {"format": TEXT_FORMAT, "fingerprint": fingerprint, "token_ids": list(token_ids)}
    return _canonical({**body, "sha256": _digest(body, b"")})


def decode_text(data: bytes, *, fingerprint: str) -> tuple[int, ...]:
    """Return the token ids that were encoded.

    Raises:
        CorruptRecord: `data` is not what `encode_text` made.
        FingerprintMismatch: they are of another model than `fingerprint`.
    """
    with _as_corrupt("a segment's text"):
        body = json.loads(data)
        _require(body["format"] == TEXT_FORMAT, f"the format is not {TEXT_FORMAT}")
        stored = _text(body["fingerprint"])
        token_ids = tuple(_integer(token_id) for token_id in body["token_ids"])
        _require(data == encode_text(token_ids, fingerprint=stored), "the checksum or the form differs")
    if stored != fingerprint:
        raise FingerprintMismatch(stored=stored, expected=fingerprint)
    return token_ids


def _digest(description: object, payload: bytes) -> str:
    return hashlib.sha256(_canonical(description) + payload).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _text(value: Any) -> str:
    _require(isinstance(value, str), "a text is expected")
    return str(value)


def _integer(value: Any) -> int:
    # not isinstance: True is an int
    _require(type(value) is int, "a whole number is expected")
    return int(value)


class _Unfit(ValueError):
    """What is wrong with a record, in words; other errors' texts may hold the bytes they are about."""


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Unfit(otherwise)


@contextmanager
def _as_corrupt(kind: str) -> Iterator[None]:
    """Turn what bad bytes can cause into CorruptRecord; JSON of very many brackets ends in RecursionError."""
    try:
        yield
    except _Unfit as error:
        raise CorruptRecord(f"not {kind}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptRecord(f"not {kind}: its description cannot be read") from error
