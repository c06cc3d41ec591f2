"""What clients keep for the server and cannot read or change: AES-256 in Galois/Counter Mode (NIST SP 800-38D).

A sealed text is base64 (RFC 4648, section 5) of a version, the name of the key, a nonce and the encrypted bytes. Keys
follow from secrets and from the tenant's salt; the first secret seals and all of them open, so that they can be changed
while what earlier ones sealed is still about.
"""

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.core.documents.stored_secret import StoredSecret, secret_of
from server.core.tenant import Tenant
from server.errors import InvalidRequest, TooLong
from server.limits import MAX_SEALED

VERSION = b"acs1"
NAME_BYTES = 8
NONCE_BYTES = 12


class Sealer:
    """Seals and opens."""

    def __init__(self, stored: StoredSecret, given: Sequence[str]) -> None:
        """`given`: secrets of whoever runs the server, the newest first; the store's own where there are none."""
        self._stored = stored
        self._given = [secret_of(words) for words in given]

    async def seal(self, tenant: Tenant, data: bytes) -> str:
        """Seal for a tenant; TooLong where the sealed text would have more characters than clients may send back."""
        secret, *_ = await self._secrets()
        size = -(-(len(VERSION) + NAME_BYTES + NONCE_BYTES + len(data) + 16) // 3) * 4
        if size > MAX_SEALED:
            raise TooLong(
                f"the compacted conversation has {size} characters, and the limit is {MAX_SEALED}; with `store` its "
                "vectors stay on the server, and the item has their id alone",
                param="store",
            )
        return await asyncio.to_thread(_sealed, tenant.sealing_key(secret), data)

    async def open(self, tenant: Tenant, sealed: str, *, param: str) -> bytes:
        """What was sealed; InvalidRequest, which names `param`, where that was not done here for this tenant."""
        keys = [tenant.sealing_key(secret) for secret in await self._secrets()]
        try:
            return await asyncio.to_thread(_opened, keys, sealed)
        except InvalidRequest as error:
            error.param = param
            raise

    async def _secrets(self) -> list[bytes]:
        return self._given or [await self._stored.get()]


def _sealed(key: bytes, data: bytes) -> str:
    head, nonce = VERSION + _name(key), secrets.token_bytes(NONCE_BYTES)
    return base64.urlsafe_b64encode(head + nonce + AESGCM(key).encrypt(nonce, data, head)).decode()


def _opened(keys: Sequence[bytes], sealed: str) -> bytes:
    try:
        data = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidRequest("encrypted_content is not what this server makes: it is no base64 text") from None
    # the last characters of base64 may carry bits that nothing stands for
    if base64.urlsafe_b64encode(data).decode() != sealed or not data.startswith(VERSION):
        raise InvalidRequest("encrypted_content is not what this server makes, or is of another version of it")
    start = len(VERSION) + NAME_BYTES
    head, nonce, encrypted = data[:start], data[start : start + NONCE_BYTES], data[start + NONCE_BYTES :]
    key = next((key for key in keys if head == VERSION + _name(key)), None)
    if key is None:
        raise InvalidRequest(
            "encrypted_content was sealed by another server or for another client, or with a key that is gone"
        )
    try:
        return AESGCM(key).decrypt(nonce, encrypted, head)
    except (InvalidTag, ValueError):
        raise InvalidRequest("encrypted_content was changed since it was made: its seal is broken") from None


def _name(key: bytes) -> bytes:
    """By which a key is found, and which tells nothing of it."""
    return hashlib.sha256(b"name of a sealing key\0" + key).digest()[:NAME_BYTES]
