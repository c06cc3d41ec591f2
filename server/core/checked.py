"""A checksum before the bytes of a record: one that is not what was put is never used."""

import hashlib

from server.store.codec import CorruptRecord

DIGEST_CHARACTERS = 64


def with_checksum(data: bytes) -> bytes:
    """What `checked` takes: the SHA-256 in hexadecimal, and the bytes."""
    return hashlib.sha256(data).hexdigest().encode() + data


def checked(value: bytes, *, what: str) -> bytes:
    """The bytes of a record; CorruptRecord, which says that it is not `what`, where the checksum differs."""
    digest, data = value[:DIGEST_CHARACTERS], value[DIGEST_CHARACTERS:]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise CorruptRecord(f"not {what}: the checksum differs")
    return data
