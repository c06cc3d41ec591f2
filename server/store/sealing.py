"""Values of a store, sealed: AES-256 in Galois/Counter Mode (NIST SP 800-38D), by keys that whoever runs it gives.

A sealed value is a mark, the name of the key, a nonce and the encrypted bytes. Each entry is sealed under a key of its
own, which follows from the given one, the space and the entry's key (HMAC-SHA256). So a value opens nowhere but where
it was put; and the bound on random nonces, 2**32 values under one key, is one on how often a single entry is written.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARK = b"acsealed1\0"  # no record of ours begins like it
NAME_BYTES, NONCE_BYTES, TAG_BYTES = 8, 12, 16
SEAL_BYTES = len(MARK) + NAME_BYTES + NONCE_BYTES + TAG_BYTES  # that a value has more when it is sealed

# What stands for a value that is there and cannot be read: no record of ours, so that none is ever made of it
NO_KEY = b"\0sealed with a key that is not among store_keys"
BROKEN = b"\0the seal is broken"
NOT_SEALED = b"\0not sealed, as store_keys asks"
UNREADABLE = (NO_KEY, BROKEN, NOT_SEALED)


class StoreKeys:
    """The keys of a store: the first seals, all open. Without any, nothing is sealed.

    `seals`: whether there is one that does.
    """

    def __init__(self, given: Sequence[str] = (), *, seals: bool = True) -> None:
        """`seals`: False has keys open alone, and values kept as they are."""
        self.seals = seals and bool(given)
        self._by_name: dict[bytes, bytes] = {}
        for words in given:
            key = hashlib.sha256(b"key of a store\0" + words.encode()).digest()
            self._by_name.setdefault(hashlib.sha256(b"name of a key of a store\0" + key).digest()[:NAME_BYTES], key)

    def sealed(self, space: str, key: str, value: bytes) -> bytes:
        """A value as it is kept under a key of a space."""
        if not self.seals:
            return value
        name, secret = next(iter(self._by_name.items()))
        head, nonce = MARK + name, secrets.token_bytes(NONCE_BYTES)
        return head + nonce + _cipher(secret, space, key).encrypt(nonce, value, head)

    def are_of(self, kept: bytes) -> bool:
        """Whether a value is kept as `sealed` would: by the first key, or not sealed where nothing is."""
        if not self.seals:
            return not kept.startswith(MARK)
        return kept.startswith(MARK + next(iter(self._by_name)))

    def opened(self, space: str, key: str, kept: bytes, *, takes_plain: bool = False) -> bytes:
        """What `sealed` was given; one of `UNREADABLE` where it cannot be told.

        Args:
            takes_plain: a value that is not sealed is taken, though there are keys.
        """
        if not kept.startswith(MARK):
            return NOT_SEALED if self._by_name and not takes_plain else kept
        start = len(MARK) + NAME_BYTES
        secret = self._by_name.get(kept[len(MARK) : start])
        if secret is None:
            return NO_KEY
        head, nonce, encrypted = kept[:start], kept[start : start + NONCE_BYTES], kept[start + NONCE_BYTES :]
        try:
            return _cipher(secret, space, key).decrypt(nonce, encrypted, head)
        except (InvalidTag, ValueError):
            return BROKEN


def _cipher(secret: bytes, space: str, key: str) -> AESGCM:
    return AESGCM(hmac.digest(secret, f"{space}\0{key}".encode(), "sha256"))  # a space's name has no NUL
