"""The bytes of a manifest, what a summary id stands for: canonical JSON."""

import json
import math
from dataclasses import dataclass, field

from server.store.codec.record import FingerprintMismatch, as_corrupt, canonical, digest, integer, require, text

MANIFEST_FORMAT = "autocompressor-manifest-1"


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


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON: equal manifests give equal bytes."""
    body = {**vars(manifest), "format": MANIFEST_FORMAT}  # no `asdict`, which copies each segment's key
    # as manifests were before there were lists, and before there were texts
    if manifest.tenant is None:
        del body["tenant"]
    if not manifest.has_text:
        del body["has_text"]
    return canonical({**body, "sha256": digest(body, b"")})


def decode_manifest(data: bytes, *, fingerprint: str) -> Manifest:
    """Return the manifest that was encoded.

    Raises:
        CorruptRecord: `data` is not what `encode_manifest` made.
        FingerprintMismatch: it is of another model than `fingerprint`.
    """
    with as_corrupt("a manifest"):
        body = json.loads(data)
        require(body["format"] == MANIFEST_FORMAT, f"the format is not {MANIFEST_FORMAT}")
        manifest = Manifest(
            fingerprint=text(body["fingerprint"]),
            segments=tuple(text(key) for key in body["segments"]),
            segment_tokens=tuple(integer(tokens) for tokens in body["segment_tokens"]),
            vectors=integer(body["vectors"]),
            created=float(body["created"]),
            metadata={text(name): text(value) for name, value in body["metadata"].items()},
            parent=None if body["parent"] is None else text(body["parent"]),
            tenant=text(body["tenant"]) if "tenant" in body else None,
            has_text=body.get("has_text") is True,
        )
        # the encoding is canonical, so this compares the checksum and everything beside it
        require(data == encode_manifest(manifest), "the checksum or the form differs")
    if manifest.fingerprint != fingerprint:
        raise FingerprintMismatch(stored=manifest.fingerprint, expected=fingerprint)
    return manifest
