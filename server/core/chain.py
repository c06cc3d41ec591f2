"""Summary ids: a hash chain over segments, so that equal prefixes of documents have equal keys.

Where a model reads segments alone, their own keys are without what stands before: equal segments have equal keys.
Equal keys have equal vectors: those of segments whose vectors are rounded to int8 are hashed as another format.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

KEY_CHARACTERS = 40  # 160 bits, as a git commit id
FORMAT = b"autocompressor-chain-1"
INT8_FORMAT = b"autocompressor-chain-1-int8"


def root_key(fingerprint: str, tenant_salt: str) -> str:
    """The key before any segment, of one model and one tenant."""
    return _key(FORMAT, fingerprint.encode(), tenant_salt.encode())


def extend(key: str, segments: Sequence[Sequence[int]], *, as_int8: bool = False) -> list[str]:
    """The key of each segment of a document that continues the one `key` stands for.

    A key hashes the key before it and the segment's token ids, as 4-byte little-endian numbers.

    Args:
        as_int8: their vectors are rounded, whatever those before them are.
    """
    keys = []
    for segment in segments:
        key = _key(INT8_FORMAT if as_int8 else FORMAT, key.encode(), np.asarray(segment, dtype="<u4").tobytes())
        keys.append(key)
    return keys


def alone(root: str, segments: Sequence[Sequence[int]], *, as_int8: bool = False) -> list[str]:
    """The key of each segment by itself, whatever document it is in: that of a document which it would begin."""
    return [extend(root, [segment], as_int8=as_int8)[0] for segment in segments]


def derived_key(root: str, purpose: str) -> str:
    """A key for another purpose than the chain's, which tells nothing of the root."""
    return _key(FORMAT, root.encode(), purpose.encode())


def is_key(text: str) -> bool:
    """Whether a text has the form of a summary id."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_CHARACTERS}}}", text) is not None


def _key(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))  # so that parts cannot run into one another
        digest.update(part)
    return digest.hexdigest()[:KEY_CHARACTERS]
