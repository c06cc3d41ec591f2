"""The secret that signs exported summaries: made once for a store, or given by whoever runs the server."""

import hashlib
import secrets

from server.core.documents.store_calls import StoreCalls
from server.store import Entry, EntryChanged, SummaryStore

KEY = "secret:export"  # referenced by nothing and never listed
NUM_BYTES = 32


class ExportSecret:
    """Servers that share a store share its secret, and those that are given the same one."""

    def __init__(self, store: SummaryStore, calls: StoreCalls, given: str | None) -> None:
        """`given`: None or an empty one has the store keep one, which is made at its first use."""
        self._store = store
        self._calls = calls
        self._secret = hashlib.sha256(given.encode()).digest() if given else None

    async def get(self) -> bytes:
        """The secret, the same for as long as the store keeps it. Raises what any call to the store raises."""
        if self._secret is None:
            self._secret = await self._stored() or await self._made()
        return self._secret

    async def _stored(self) -> bytes | None:
        async with self._calls("get"):
            (secret,) = await self._store.get_many([KEY])
        return secret

    async def _made(self) -> bytes:
        made = secrets.token_bytes(NUM_BYTES)
        try:
            async with self._calls("put"):
                await self._store.put_many([Entry(KEY, made)], expected={KEY: None})
        except EntryChanged:  # another server was first
            return await self._stored() or made
        return made
