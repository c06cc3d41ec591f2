"""What all records have in common: a checksum over canonical JSON, and what is said of bytes that are none."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.store.protocol import StoreError


class CorruptRecord(StoreError):
    """The bytes are not a whole record of the format that this program reads."""


class FingerprintMismatch(StoreError):
    """The record is whole, but of another model."""

    def __init__(self, *, stored: str, expected: str) -> None:
        super().__init__(f"the record is of model {stored!r}, and this model is {expected!r}")
        self.stored = stored
        self.expected = expected


def digest(description: object, payload: bytes) -> str:
    return hashlib.sha256(canonical(description) + payload).hexdigest()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def text(value: Any) -> str:
    require(isinstance(value, str), "a text is expected")
    return str(value)


def integer(value: Any) -> int:
    # not isinstance: True is an int
    require(type(value) is int, "a whole number is expected")
    return int(value)


class Unfit(ValueError):
    """What is wrong with a record, in words; other errors' texts may hold the bytes they are about."""


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unfit(otherwise)


@contextmanager
def as_corrupt(kind: str) -> Iterator[None]:
    """Turn what bad bytes can cause into CorruptRecord; JSON of very many brackets ends in RecursionError."""
    try:
        yield
    except Unfit as error:
        raise CorruptRecord(f"not {kind}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptRecord(f"not {kind}: its description cannot be read") from error
