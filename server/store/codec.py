"""The bytes of a record: summary vectors as safetensors, manifests as JSON, both with a checksum.

Decoding takes any bytes, runs nothing that they say, and raises nothing but CorruptRecord and FingerprintMismatch.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
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
MANIFEST_FORMAT = "autocompressor-manifest-1"

# the names of https://github.com/huggingface/safetensors#format
DTYPES = MappingProxyType({"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32})


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
    document that this one continues, `tenant` whose list it is in.
    """

    fingerprint: str
    segments: tuple[str, ...]
    segment_tokens: tuple[int, ...]
    vectors: int
    created: float
    metadata: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        if len(self.segments) != len(self.segment_tokens):
            raise ValueError(f"{len(self.segments)} segments with {len(self.segment_tokens)} lengths")
        if not math.isfinite(self.created):
            raise ValueError(f"created must be finite, not {self.created}")


def encode_summary(summary: SegmentSummary, *, fingerprint: str, notes: Mapping[str, str] | None = None) -> bytes:
    """As `encode_vectors`, with the vectors' ranks and anchors where they have them."""
    order = None
    if summary.ranks is not None and summary.anchors is not None:
        order = _canonical({"ranks": summary.ranks.tolist(), "anchors": summary.anchors.tolist()}).decode()
    return encode_vectors(summary.vectors, fingerprint=fingerprint, notes=notes, order=order)


def encode_vectors(
    vectors: Tensor, *, fingerprint: str, notes: Mapping[str, str] | None = None, order: str | None = None
) -> bytes:
    """Encode summary vectors, (S, D), of a dtype in `DTYPES`, finite and on the CPU; ValueError if they are not.

    `notes` go into the file's metadata, outside of its checksum; `order` is what else is known of the vectors, in JSON.
    """
    dtype = {torch_dtype: name for name, torch_dtype in DTYPES.items()}.get(vectors.dtype)
    if dtype is None or vectors.ndim != 2 or vectors.numel() == 0 or vectors.device.type != "cpu":
        raise ValueError(
            f"summary vectors must be (S, D) of {', '.join(DTYPES)} on the CPU, "
            f"not {tuple(vectors.shape)} of {vectors.dtype} on {vectors.device}"
        )
    if not torch.isfinite(vectors).all():
        raise ValueError("summary vectors must be finite")
    vectors = vectors.contiguous()
    payload = vectors.view(torch.uint8).numpy().tobytes()
    of_order = [] if order is None else [order]
    sha256 = _digest([VECTORS_FORMAT, fingerprint, dtype, list(vectors.shape), *of_order], payload)
    metadata = {**(notes or {}), "format": VECTORS_FORMAT, "fingerprint": fingerprint, "sha256": sha256}
    if order is not None:
        metadata["order"] = order
    return safetensors.torch.save({"vectors": vectors}, metadata=metadata)


def decode_vectors(data: bytes, *, fingerprint: str) -> Tensor:
    """The vectors alone of what `decode_summary` returns, (S, D)."""
    return decode_summary(data, fingerprint=fingerprint).vectors


def decode_summary(data: bytes, *, fingerprint: str) -> SegmentSummary:
    """Return the vectors that were encoded, in memory of their own, with their order where it was.

    Raises:
        CorruptRecord: `data` is not what `encode_vectors` made.
        FingerprintMismatch: they are of another model than `fingerprint`.
    """
    # The header is read here: safetensors.torch.load leaves out the metadata, and raises errors of many kinds.
    # It is 8 bytes of length and a JSON text; the one tensor fills the rest.
    start = 8 + int.from_bytes(data[:8], "little")
    payload = data[start:]
    with _as_corrupt("a record of summary vectors"):
        header = json.loads(data[8:start])
        metadata, tensor = header["__metadata__"], header["vectors"]
        stored = _text(metadata["fingerprint"])
        dtype = _text(tensor["dtype"])
        _require(dtype in DTYPES, "the dtype is none of summary vectors'")
        _require(len(tensor["shape"]) == 2, "the shape is not of two sizes")
        rows, columns = (_integer(size) for size in tensor["shape"])
        _require(metadata["format"] == VECTORS_FORMAT, f"the format is not {VECTORS_FORMAT}")
        _require(tensor["data_offsets"] == [0, len(payload)], "the length is wrong")
        of_order = [_text(metadata["order"])] if "order" in metadata else []
        expected = _digest([VECTORS_FORMAT, stored, dtype, [rows, columns], *of_order], payload)
        _require(metadata["sha256"] == expected, "the checksum differs")
        _require(rows > 0 and columns > 0, "the shape is empty")
        _require(rows * columns * DTYPES[dtype].itemsize == len(payload), "the shape does not fit the length")
        # a bytearray, because a tensor over bytes would be one that must not be written to
        vectors = torch.frombuffer(bytearray(payload), dtype=DTYPES[dtype]).reshape(rows, columns)
        _require(bool(torch.isfinite(vectors).all()), "not all values are finite")
        ranks, anchors = _order(json.loads(of_order[0]), rows) if of_order else (None, None)
    if stored != fingerprint:
        raise FingerprintMismatch(stored=stored, expected=fingerprint)
    return SegmentSummary(vectors, ranks, anchors)


def _order(order: Any, num_vectors: int) -> tuple[Tensor, Tensor]:
    """Ranks and anchors of so many vectors."""
    ranks, anchors = ([_integer(value) for value in order[name]] for name in ("ranks", "anchors"))
    _require(len(ranks) == num_vectors == len(anchors), "the order is of another number of vectors")
    _require(min(ranks) >= 0 and min(anchors) >= 0 and max(*ranks, *anchors, 0) < 2**31, "the order is out of bounds")
    return torch.tensor(ranks), torch.tensor(anchors)


def decode_notes(data: bytes) -> dict[str, str]:
    """The metadata of an encoded file of vectors, its notes among it; CorruptRecord where there is none."""
    with _as_corrupt("a file of summary vectors"):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return {_text(name): _text(value) for name, value in header["__metadata__"].items()}


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON: equal manifests give equal bytes."""
    body = {**asdict(manifest), "format": MANIFEST_FORMAT}
    if manifest.tenant is None:  # as manifests were before there were lists
        del body["tenant"]
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
        )
        # the encoding is canonical, so this compares the checksum and everything beside it
        _require(data == encode_manifest(manifest), "the checksum or the form differs")
    if manifest.fingerprint != fingerprint:
        raise FingerprintMismatch(stored=manifest.fingerprint, expected=fingerprint)
    return manifest


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
