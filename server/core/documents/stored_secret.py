"""Secrets that sign and seal what leaves the server: each made once for a store, or given by whoever runs it."""

import hashlib
import secrets

from server.core.documents.store_calls import StoreCalls
from server.store import Entry, EntryChanged, SummaryStore
from server.store.codec import CorruptRecord

NUM_BYTES = 32


class StoredSecret:
    """Servers that share a store share its secrets, and those that are given the same one."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, purpose: str, given: str | None) -> None:
        """
        Args:
            purpose: its name in the store; nothing references it, and it is never listed.
            given: None or an empty one has the store keep one, which is made at its first use.
        """
        self._store = store
        self._calls = calls
        self._key = f"secret:{purpose}"
        self._secret = secret_of(given) if given else None

    async def get(self) -> bytes:
        """The secret, the same for as long as the store keeps it. Raises what any call to the store raises."""
        if self._secret is None:
            self._secret = await self._stored() or await self._made()
        return self._secret

    async def _stored(self) -> bytes | None:
        async with self._calls("get"):
            (secret,) = await self._store.get_many([self._key])
            if secret is not None and len(secret) != NUM_BYTES:  # here, so that it is told as any other failure
                raise CorruptRecord(f"{self._key} is no secret: it is damaged, or sealed with another key")
        return secret

    async def _made(self) -> bytes:
        made = secrets.token_bytes(NUM_BYTES)
        try:
            async with self._calls("put"):
                await self._store.put_many([Entry(self._key, made)], expected={self._key: None})
        except EntryChanged:  # another server was first
            return await self._stored() or made
        return made


def secret_of(words: str) -> bytes:
    """The secret that an operator's words stand for."""
    return hashlib.sha256(words.encode()).digest()
