"""Stored documents that are compressed again: a longer life, more metadata, a text that was not kept."""

import asyncio
from dataclasses import replace
from weakref import WeakValueDictionary

from server.core.documents.document import Document
from server.core.documents.summaries import Summaries, Summary
from server.core.documents.work import UNFINISHED_SECONDS, Work
from server.errors import InvalidRequest
from server.limits import MAX_METADATA
from server.store import MissingReferences


class Renewer:
    """Changes one manifest at a time, or what one call adds would be lost to another."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def renew(self, summary_id: str, document: Document) -> Summary | None:
        """The summary where it is stored, with the document's metadata and life where those are more; else None.

        One whose segments the store has lost is as good as not stored.
        """
        found = await self._summaries.find(summary_id)
        if found is not None and not await self._summaries.is_whole(found[0]):
            return None
        if found is None or not document.renews or renewed(*found, document) is None:
            return None if found is None else found[0]
        async with self._lock(summary_id):
            found = await self._summaries.find(summary_id)
            better = None if found is None else renewed(*found, document)
            if found is None or better is None:
                return None if found is None else found[0]
            return await self._put(better, document)

    async def stored(self, summary_id: str, work: Work, document: Document) -> Summary | None:
        """As `renew`, and its text where it is to be kept and was not."""
        found = await self.renew(summary_id, document)
        if found is None or found.manifest.has_text or not document.keep_text:
            return found
        async with self._lock(summary_id):
            await self._summaries.segments.put_texts(work.keys, work.segments, ttl_seconds=UNFINISHED_SECONDS)
            current = await self._summaries.find(summary_id)
            if current is None:
                return None
            manifest = replace(current[0].manifest, has_text=True)
            return await self._put(replace(current[0], manifest=manifest), document)

    def _lock(self, summary_id: str) -> asyncio.Lock:
        return self._locks.setdefault(summary_id, asyncio.Lock())

    async def _put(self, better: Summary, document: Document) -> Summary | None:
        try:
            await self._summaries.put(better, ttl_seconds=document.ttl_seconds)
        except MissingReferences:
            return None
        return better


def renewed(summary: Summary, seconds_left: float | None, document: Document) -> Summary | None:
    """What is to be stored so that a summary has the document's metadata and life; None where it has them already.

    Raises:
        InvalidRequest: it would have more metadata than a summary may have.
    """
    merged = summary.manifest.metadata | (document.metadata or {})
    require_few(merged)
    if merged != summary.manifest.metadata:
        return replace(summary, manifest=replace(summary.manifest, metadata=merged))
    ttl_seconds = document.ttl_seconds
    is_longer = seconds_left is not None and (ttl_seconds is None or ttl_seconds > seconds_left)
    return summary if is_longer else None


def require_few(metadata: dict[str, str]) -> None:
    """Refuse more metadata than a summary may have, what is stored of it included."""
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(
            f"with what is stored, metadata has {len(metadata)} entries, and the limit is {MAX_METADATA}",
            param="metadata",
        )
