"""Which keys an admin has revoked, in the store: it outlives the server, and its replicas see it."""

import asyncio
import json
import logging
import time

from server.core.checked import checked, with_checksum
from server.core.documents.store_calls import StoreCalls
from server.errors import NotReady, ServiceError
from server.store import Entry, EntryChanged, SummaryStore

logger = logging.getLogger(__name__)

RECORD = "access:revoked"
REREAD_SECONDS = 5.0  # how long another replica may still let a revoked key in
MAX_ATTEMPTS = 20


class Revoked:
    """The SHA-256 hashes of revoked keys, in one record of the store."""

    def __init__(self, store: SummaryStore, calls: StoreCalls) -> None:
        self._store = store
        self._calls = calls
        self._known: frozenset[str] | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def digests(self) -> frozenset[str]:
        """Those of a few seconds ago at most, or where the store does not answer those that were read last.

        Raises:
            NotReady: none were ever read. To let everyone in then would let in whoever was revoked before a restart.
        """
        if self._known is not None and time.monotonic() - self._read_at < REREAD_SECONDS:
            return self._known
        async with self._reading:
            if self._known is None or time.monotonic() - self._read_at >= REREAD_SECONDS:
                try:
                    self._keep(_decoded(await self._stored()))
                except ServiceError:  # StoreCalls has logged it
                    if self._known is None:
                        raise NotReady("whether keys were revoked cannot be read from the store") from None
                    self._read_at = time.monotonic()
            assert self._known is not None
            return self._known

    async def add(self, digest: str) -> None:
        """Revoke a key; it is stored when this returns. Raises what any call to the store raises, and NotReady."""
        for _ in range(MAX_ATTEMPTS):
            data = await self._stored()
            digests = _decoded(data) | {digest}
            try:
                async with self._calls("put"):
                    await self._store.put_many([Entry(RECORD, _encoded(digests))], expected={RECORD: data})
            except EntryChanged:
                continue
            self._keep(digests)
            return
        raise NotReady("keys are revoked elsewhere all the time; try again later")

    async def _stored(self) -> bytes | None:
        async with self._calls("get"):
            (data,) = await self._store.get_many([RECORD])
            if data is not None:
                _decoded(data)  # here, so that a damaged one is told as any other
        return data

    def _keep(self, digests: frozenset[str]) -> None:
        self._known, self._read_at = digests, time.monotonic()


def _encoded(digests: frozenset[str]) -> bytes:
    return with_checksum(json.dumps(sorted(digests)).encode())


def _decoded(value: bytes | None) -> frozenset[str]:
    if value is None:
        return frozenset()
    return frozenset(json.loads(checked(value, what="a list of revoked keys")))
