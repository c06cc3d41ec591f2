"""The bytes of a segment's text, as token ids: canonical JSON."""

import json
from collections.abc import Sequence

from server.store.codec.record import FingerprintMismatch, as_corrupt, canonical, digest, integer, require, text

TEXT_FORMAT = "autocompressor-text-1"


def encode_text(token_ids: Sequence[int], *, fingerprint: str) -> bytes:
    """Encode a segment's token ids as canonical JSON."""
    body = {"format": TEXT_FORMAT, "fingerprint": fingerprint, "token_ids": list(token_ids)}
    return canonical({**body, "sha256": digest(body, b"")})


def decode_text(data: bytes, *, fingerprint: str) -> tuple[int, ...]:
    """Return the token ids that were encoded.

    Raises:
        CorruptRecord: `data` is not what `encode_text` made.
        FingerprintMismatch: they are of another model than `fingerprint`.
    """
    with as_corrupt("a segment's text"):
        body = json.loads(data)
        require(body["format"] == TEXT_FORMAT, f"the format is not {TEXT_FORMAT}")
        stored = text(body["fingerprint"])
        token_ids = tuple(integer(token_id) for token_id in body["token_ids"])
        require(data == encode_text(token_ids, fingerprint=stored), "the checksum or the form differs")
    if stored != fingerprint:
        raise FingerprintMismatch(stored=stored, expected=fingerprint)
    return token_ids
