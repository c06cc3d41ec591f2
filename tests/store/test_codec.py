"""Records come back as they were, and nothing else comes back."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.compressors import SegmentSummary
from model.int8 import as_rounded
from server.store.codec import (
    CorruptRecord,
    FingerprintMismatch,
    Manifest,
    decode_manifest,
    decode_segment,
    decode_text,
    encode_manifest,
    encode_segment,
    encode_text,
)
from tests.store.records import MODEL, make_manifest, make_vectors, mutations, signed_manifest, signed_vectors


def encode_plain(vectors: Tensor, *, fingerprint: str) -> bytes:
    return encode_segment(SegmentSummary(vectors), fingerprint=fingerprint)


def decode_plain(data: bytes, *, fingerprint: str) -> Tensor:
    summary = decode_segment(data, fingerprint=fingerprint)
    assert (summary.ranks, summary.anchors) == (None, None)
    return summary.vectors


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("decoding ran what the bytes said",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_vectors_come_back_as_they_were(dtype: torch.dtype) -> None:
    vectors = make_vectors(dtype)
    decoded = decode_plain(encode_plain(vectors, fingerprint=MODEL), fingerprint=MODEL)
    assert decoded.dtype == dtype
    assert torch.equal(decoded, vectors)
    decoded += 1  # its own memory, and writable


def test_vectors_that_are_a_view_with_a_gradient_are_encoded() -> None:
    transposed = make_vectors().T.requires_grad_()
    assert torch.equal(decode_plain(encode_plain(transposed, fingerprint=MODEL), fingerprint=MODEL), transposed)


def test_vectors_are_safetensors_for_any_other_reader() -> None:
    vectors = make_vectors()
    assert torch.equal(safetensors.torch.load(encode_plain(vectors, fingerprint=MODEL))["vectors"], vectors)


@pytest.mark.parametrize(
    "vectors",
    [
        torch.zeros(8),
        torch.zeros(1, 2, 8),
        torch.zeros(0, 8),
        torch.zeros(3, 8, dtype=torch.float64),
        torch.zeros(3, 8, dtype=torch.int32),
        torch.zeros(3, 8, device="meta"),
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, float("inf")]]),
    ],
    ids=["rank 1", "rank 3", "empty", "float64", "int32", "meta", "nan", "inf"],
)
def test_what_is_no_summary_is_not_encoded(vectors: Tensor) -> None:
    with pytest.raises(ValueError, match="summary vectors must be"):
        encode_plain(vectors, fingerprint=MODEL)


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(FingerprintMismatch, match=r"'model-a'.*'model-b'"):
        decode_plain(encode_plain(make_vectors(), fingerprint=MODEL), fingerprint="model-b")


def test_changed_vectors_are_equal_or_refused() -> None:
    vectors = make_vectors()
    data = encode_plain(vectors, fingerprint=MODEL)
    refused = 0
    for changed in mutations(data, 3000):
        try:
            assert torch.equal(decode_plain(changed, fingerprint=MODEL), vectors)
        except (CorruptRecord, FingerprintMismatch):
            refused += 1
    assert refused > len(data) * 1.9


def test_a_changed_header_is_refused_though_the_tensor_is_whole() -> None:
    """The checksum covers what the bytes are read as."""
    data = encode_plain(make_vectors(torch.float16), fingerprint=MODEL)
    for old, new in [(b'"F16"', b'"BF16"'), (b"[3,8]", b"[8,3]"), (b"model-a", b"model-b")]:
        header_bytes = int.from_bytes(data[:8], "little") + len(new) - len(old)
        changed = header_bytes.to_bytes(8, "little") + data[8:].replace(old, new)
        with pytest.raises(CorruptRecord, match="checksum"):
            decode_plain(changed, fingerprint="model-b" if new == b"model-b" else MODEL)


@pytest.mark.parametrize(
    ("dtype", "shape", "payload", "reason"),
    [
        ("F32", [1, 2], b"\0" * 4 + b"\0\0\x80\x7f", "finite"),
        ("F32", [2], b"\0" * 8, "two sizes"),
        ("F32", [1, 1, 2], b"\0" * 8, "two sizes"),
        ("F32", [0, 2], b"", "empty"),
        ("F32", [-1, -2], b"\0" * 8, "empty"),
        ("F32", [2, 2], b"\0" * 8, "does not fit"),
        ("F64", [1, 1], b"\0" * 8, "the dtype is none of"),
        ("F32", [True, 2], b"\0" * 8, "whole number"),
    ],
)
def test_a_right_checksum_over_wrong_vectors_is_refused(
    dtype: str, shape: list[int], payload: bytes, reason: str
) -> None:
    with pytest.raises(CorruptRecord, match=reason):
        decode_plain(signed_vectors(payload, dtype, shape), fingerprint=MODEL)


def test_the_signed_record_of_these_tests_is_read() -> None:
    """Else the test above would pass for another reason."""
    assert decode_plain(signed_vectors(b"\0" * 8, "F32", [1, 2]), fingerprint=MODEL).tolist() == [[0, 0]]
    assert decode_manifest(signed_manifest(), fingerprint=MODEL) == make_manifest()


@pytest.mark.parametrize("manifest", [make_manifest(), replace(make_manifest(), metadata={}, parent=None)])
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest), fingerprint=MODEL) == manifest


def test_equal_manifests_give_equal_bytes() -> None:
    one = replace(make_manifest(), metadata={"a": "1", "b": "2"})
    other = replace(make_manifest(), metadata={"b": "2", "a": "1"})
    assert encode_manifest(one) == encode_manifest(other)


def test_a_manifest_that_contradicts_itself_is_not_made() -> None:
    with pytest.raises(ValueError, match="2 segments with 1 lengths"):
        replace(make_manifest(), segment_tokens=(1,))
    with pytest.raises(ValueError, match="finite"):
        replace(make_manifest(), created=float("nan"))


def test_a_manifest_of_another_model_is_refused() -> None:
    with pytest.raises(FingerprintMismatch, match=r"'model-a'.*'model-b'"):
        decode_manifest(encode_manifest(make_manifest()), fingerprint="model-b")


def test_a_changed_manifest_is_refused() -> None:
    data = encode_manifest(make_manifest())
    for changed in mutations(data, 3000):
        if changed != data:
            with pytest.raises(CorruptRecord):
                decode_manifest(changed, fingerprint=MODEL)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "autocompressor-manifest-2"},
        {"segments": 5},
        {"segments": [1, 2]},
        {"segments": ["0a"]},
        {"segment_tokens": [1.5, 2]},
        {"vectors": None},
        {"vectors": True},
        {"created": "soon"},
        {"created": 1},
        {"created": 10**400},
        {"metadata": ["a"]},
        {"metadata": {"a": 1}},
        {"parent": 3},
        {"more": 1},
        {"fingerprint": None},
    ],
)
def test_a_right_checksum_over_a_wrong_manifest_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptRecord):
        decode_manifest(signed_manifest(**changes), fingerprint=MODEL)


def test_the_reason_of_a_refusal_is_told() -> None:
    with pytest.raises(CorruptRecord, match="format is not autocompressor-manifest-1"):
        decode_manifest(signed_manifest(format="autocompressor-manifest-2"), fingerprint=MODEL)
    with pytest.raises(CorruptRecord, match="a text is expected"):
        decode_manifest(signed_manifest(parent=3), fingerprint=MODEL)
    data = encode_plain(make_vectors(), fingerprint=MODEL)
    with pytest.raises(CorruptRecord, match="format is not autocompressor-vectors-1"):
        decode_plain(data.replace(b"vectors-1", b"vectors-2"), fingerprint=MODEL)
    with pytest.raises(CorruptRecord, match="the length is wrong"):
        decode_plain(data.replace(b"[0,96]", b"[8,96]"), fingerprint=MODEL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"null",
        b"5",
        b"NaN",
        b'"text"',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        (2).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"\xed\xa0\x80",
        b"9" * 10_000,
        (10_000).to_bytes(8, "little") + b"9" * 10_000,
        b'{"format":"autocompressor-manifest-1","created":' + b"9" * 400 + b"}",
        pickle.dumps(Bomb()),
        (len(pickle.dumps(Bomb()))).to_bytes(8, "little") + pickle.dumps(Bomb()),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode_plain(data, fingerprint=MODEL)
    with pytest.raises(CorruptRecord):
        decode_manifest(data, fingerprint=MODEL)
    with pytest.raises(CorruptRecord):
        decode_text(data, fingerprint=MODEL)


def test_one_kind_of_record_is_not_read_as_the_other() -> None:
    with pytest.raises(CorruptRecord):
        decode_plain(encode_manifest(make_manifest()), fingerprint=MODEL)
    with pytest.raises(CorruptRecord):
        decode_manifest(encode_plain(make_vectors(), fingerprint=MODEL), fingerprint=MODEL)


def test_a_manifest_without_a_tenant_is_as_it_was_before_there_were_lists() -> None:
    manifest = Manifest(fingerprint="f", segments=("a",), segment_tokens=(1,), vectors=1, created=1.0)
    assert b"tenant" not in encode_manifest(manifest)
    listed = replace(manifest, tenant="t")
    assert decode_manifest(encode_manifest(listed), fingerprint="f") == listed


def ranked(dtype: torch.dtype = torch.float32) -> SegmentSummary:
    return SegmentSummary(make_vectors(dtype), torch.tensor([2, 0, 1]), torch.tensor([0, 3, 9]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("marks", [("ranks", "anchors"), ("ranks",), ("anchors",)])
def test_ranks_and_anchors_come_back_with_their_vectors(dtype: torch.dtype, marks: tuple[str, ...]) -> None:
    summary = ranked(dtype)
    summary = replace(summary, **dict.fromkeys({"ranks", "anchors"} - {*marks}))
    data = encode_segment(summary, fingerprint=MODEL)
    decoded = decode_segment(data, fingerprint=MODEL)
    assert torch.equal(decoded.vectors, summary.vectors)
    for name in ("ranks", "anchors"):
        assert (getattr(decoded, name) is not None) == (name in marks)
        if name in marks:
            assert torch.equal(getattr(decoded, name), getattr(summary, name))
            assert torch.equal(safetensors.torch.load(data)[name].long(), getattr(summary, name))


def test_the_bytes_of_vectors_alone_are_what_they_were() -> None:
    """Hashed before there were ranks: a store that was written then is read, and written alike."""
    data = encode_plain(torch.arange(6.0).reshape(2, 3), fingerprint=MODEL)
    assert signed_vectors(torch.arange(6.0).numpy().tobytes(), "F32", [2, 3])[-24:] == data[-24:]
    own = safetensors.torch.load(data)
    assert set(own) == {"vectors"}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"]["format"] == "autocompressor-vectors-1"


def test_a_changed_ranked_record_is_equal_or_refused() -> None:
    summary = ranked()
    data = encode_segment(summary, fingerprint=MODEL)
    for changed in mutations(data, 3000):
        try:
            decoded = decode_segment(changed, fingerprint=MODEL)
        except (CorruptRecord, FingerprintMismatch):
            continue
        assert torch.equal(decoded.vectors, summary.vectors)
        assert decoded.ranks is not None
        assert decoded.anchors is not None
        assert (decoded.ranks.tolist(), decoded.anchors.tolist()) == ([2, 0, 1], [0, 3, 9])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("is_ranked", [True, False])
def test_rounded_vectors_come_back_from_int8_to_the_bit(dtype: torch.dtype, is_ranked: bool) -> None:
    summary = as_rounded(ranked(dtype) if is_ranked else SegmentSummary(make_vectors(dtype)))
    data = encode_segment(summary, fingerprint=MODEL, as_int8=True)
    decoded = decode_segment(data, fingerprint=MODEL)
    assert decoded.vectors.dtype == dtype
    assert torch.equal(decoded.vectors, summary.vectors)
    assert (decoded.ranks is not None) == is_ranked
    whole = safetensors.torch.load(data)
    assert whole["vectors"].dtype == torch.int8
    assert torch.equal((whole["vectors"] * whole["scales"][:, None]).to(dtype), summary.vectors)
    assert len(data) < len(encode_segment(summary, fingerprint=MODEL)) + 200


def test_vectors_that_int8_would_change_are_encoded_as_they_are() -> None:
    data = encode_segment(ranked(), fingerprint=MODEL, as_int8=True)
    assert torch.equal(safetensors.torch.load(data)["vectors"], ranked().vectors)
    assert torch.equal(decode_segment(data, fingerprint=MODEL).vectors, ranked().vectors)


def test_a_changed_int8_record_is_equal_or_refused() -> None:
    summary = as_rounded(ranked(torch.bfloat16))
    data = encode_segment(summary, fingerprint=MODEL, as_int8=True)
    refused = 0
    for changed in mutations(data, 1000):
        try:
            assert torch.equal(decode_segment(changed, fingerprint=MODEL).vectors, summary.vectors)
        except (CorruptRecord, FingerprintMismatch):
            refused += 1
    assert refused > len(data) * 1.8
    for old, new in [(b'"BF16"', b'"F32"'), (b"int8-vectors", b"int9-vectors"), (b'"scales"', b'"ranks"')]:
        header_bytes = int.from_bytes(data[:8], "little") + len(new) - len(old)
        with pytest.raises(CorruptRecord):
            decode_segment(header_bytes.to_bytes(8, "little") + data[8:].replace(old, new), fingerprint=MODEL)


@pytest.mark.parametrize(
    ("ranks", "reason"), [(torch.tensor([0, 1]), "of each vector"), (torch.tensor([0, -1, 1]), "negative")]
)
def test_marks_that_do_not_fit_their_vectors_are_refused(ranks: Tensor, reason: str) -> None:
    data = encode_segment(SegmentSummary(make_vectors(), ranks), fingerprint=MODEL)
    with pytest.raises(CorruptRecord, match=reason):
        decode_segment(data, fingerprint=MODEL)


def test_a_text_comes_back_as_it_was_or_is_refused() -> None:
    data = encode_text([5, 0, 40_000], fingerprint=MODEL)
    assert decode_text(data, fingerprint=MODEL) == (5, 0, 40_000)
    with pytest.raises(FingerprintMismatch):
        decode_text(data, fingerprint="model-b")
    for changed in mutations(data, 1000):
        if changed != data:
            with pytest.raises(CorruptRecord):
                decode_text(changed, fingerprint=MODEL)


def test_a_manifest_without_text_is_as_it_was_before_there_were_texts() -> None:
    assert b"has_text" not in encode_manifest(make_manifest())
    texts = replace(make_manifest(), has_text=True)
    assert decode_manifest(encode_manifest(texts), fingerprint=MODEL) == texts
    with pytest.raises(CorruptRecord):
        decode_manifest(signed_manifest(has_text=1), fingerprint=MODEL)
    with pytest.raises(CorruptRecord):
        decode_manifest(signed_manifest(has_text=False), fingerprint=MODEL)
