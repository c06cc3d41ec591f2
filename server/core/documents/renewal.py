"""Stored documents that are compressed again: a longer life, more metadata, a text that was not kept."""

import asyncio
from dataclasses import replace
from weakref import WeakValueDictionary

from server.core.documents.document import Document
from server.core.documents.summaries import AllSummaries, Change, Summary
from server.core.documents.work import UNFINISHED_SECONDS, Work
from server.errors import InvalidRequest
from server.limits import MAX_METADATA
from server.store import MissingReferences


class Renewer:
    """Changes manifests so that what one call adds is not lost to another, here or on another replica."""

    def __init__(self, summaries: AllSummaries) -> None:
        self._summaries = summaries
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def renew(self, summary_id: str, document: Document) -> Summary | None:
        """The summary where it is stored, with the document's metadata and life where those are more; else None.

        One whose segments the store has lost is as good as not stored.
        """
        summaries = self._summaries.of(document.tenant)
        found = await summaries.find(summary_id)
        if found is not None and not await summaries.is_whole(found[0]):
            return None
        if found is None or not document.renews or renewed(*found, document) is None:
            return None if found is None else found[0]
        return await self._update(
            summary_id, lambda current, left: None if current is None else renewed(current, left, document), document
        )

    async def stored(self, summary_id: str, work: Work, document: Document) -> Summary | None:
        """As `renew`, and its text where it is to be kept and was not."""
        found = await self.renew(summary_id, document)
        if found is None or found.manifest.has_text or not document.keep_text:
            return found
        segments = self._summaries.of(document.tenant).segments
        await segments.put_texts(work.keys, work.segments, ttl_seconds=UNFINISHED_SECONDS)
        return await self._update(
            summary_id,
            lambda current, _: (
                None if current is None else replace(current, manifest=replace(current.manifest, has_text=True))
            ),
            document,
        )

    async def _update(self, summary_id: str, change: Change, document: Document) -> Summary | None:
        # replicas are told apart by the store; calls of this one wait here rather than try again and again
        async with self._locks.setdefault(summary_id, asyncio.Lock()):
            try:
                summaries = self._summaries.of(document.tenant)
                return await summaries.update(summary_id, change, ttl_seconds=document.ttl_seconds)
            except MissingReferences:
                return None


def merged(new: Summary, found: Summary | None, *, keeps_text: bool) -> Summary:
    """What is to be stored of a document that was computed or imported, beside what others stored of it meanwhile.

    Args:
        keeps_text: whether the text that was stored of it is there.

    Raises:
        InvalidRequest: it would have more metadata than a summary may have.
    """
    if found is None:
        return new
    metadata = found.manifest.metadata | new.manifest.metadata
    require_few(metadata)
    has_text = new.manifest.has_text or (found.manifest.has_text and keeps_text)
    return replace(found, manifest=replace(found.manifest, metadata=metadata, has_text=has_text))


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
