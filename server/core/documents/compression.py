"""Text to summary: segments, their chain of keys, what is stored of them, the engine for the rest."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cachetools import LRUCache

from server.core import chain
from server.core.documents.document import Compressed, Document
from server.core.documents.progress import Progress, Report, Watchers
from server.core.documents.renewal import Renewer, merged, require_few
from server.core.documents.segments import is_text_key
from server.core.documents.single_flight import SingleFlight
from server.core.documents.summaries import AllSummaries, Summary
from server.core.documents.work import Work, Worker
from server.core.served_model import ServedModel
from server.engine.protocol import Encoder
from server.errors import InvalidRequest, NotReady, Overloaded, QuotaReached
from server.metrics import Metrics
from server.store import MissingReferences
from server.store.codec import Manifest
from server.tally import current

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # to finish a document whose segments are deleted meanwhile
LONG_TEXT = 2**16  # characters
MAX_KNOWN_TEXTS = 10_000  # whose ids are remembered, so that looking them up again does not tokenise


class Compressor:
    """Keeps documents as chains of segments, each computed once."""

    def __init__(self, model: ServedModel, encoder: Encoder, summaries: AllSummaries, metrics: Metrics) -> None:
        self._model = model
        self._worker = Worker(model, encoder)
        self._summaries = summaries
        self._renewer = Renewer(summaries)
        self._metrics = metrics
        self._flights = SingleFlight()
        self._watchers = Watchers()
        # of a tenant's root, a text's hash and how it is read, the id
        self._known_texts: LRUCache[tuple[str, bytes, bool], str] = LRUCache(MAX_KNOWN_TEXTS)

    async def compress(self, document: Document, report: Report | None = None) -> Compressed:
        """Compress a document, or what follows its parent; the summary is stored when this returns.

        A whole text that was seen lately and is still stored is not tokenised again.

        Args:
            report: called when it is known what is stored, and for each segment as it is, whichever call computes it.

        Raises:
            InvalidRequest: no tokens, too much metadata, or a parent without the text that is to be kept.
            TooLong: more segments than the model has positions for.
            SummaryNotFound, ModelMismatch: of the parent. And what the engine and the store raise.
        """
        done = await self._tokenised(document, report)
        self._metrics.compress_seconds.observe(done.total_seconds)
        return done

    async def _tokenised(self, document: Document, report: Report | None) -> Compressed:
        """As `compress`, its seconds not yet observed: tokenising is among them."""
        if document.token_ids is not None:
            return await self._compress(document, document.token_ids, report)
        started = time.monotonic()
        text, is_whole = document.text or "", document.parent is None
        digest = await _digest(text)
        known_as = (document.tenant.root(self._model.fingerprint), digest, document.parse_special)
        known = self._known_texts.get(known_as) if is_whole else None
        if known is not None:
            stored = await self._renewer.renew(known, document)
            if stored is not None and (stored.manifest.has_text or not document.keep_text):
                return self._found(stored, stored.manifest.segment_tokens, report, started)
        # an empty text stays empty: a start token alone is no document
        tokenise = partial(self._model.tokenise_document, text, is_start=is_whole, parse_special=document.parse_special)
        token_ids = await self._model.long_texts.in_thread(len(text), tokenise) if text else []
        tokenize_seconds = time.monotonic() - started
        done = await self._compress(document, token_ids, report)
        if is_whole:
            self._known_texts[known_as] = done.summary.id
        return replace(done, tokenize_seconds=tokenize_seconds, total_seconds=done.total_seconds + tokenize_seconds)

    async def require_possible(self, document: Document, token_ids: Sequence[int]) -> int:
        """Raise what `compress` would before any work, and say how many segments it would cut."""
        _, segments = await self._cut(document, token_ids)
        return len(segments)

    async def _compress(self, document: Document, token_ids: Sequence[int], report: Report | None) -> Compressed:
        started = time.monotonic()
        parent, segments = await self._cut(document, token_ids)
        if document.keep_text and parent is not None and not parent.manifest.has_text:
            raise InvalidRequest(
                f"the text of parent {parent.id!r} was not kept, so no whole one is", param="keep_text"
            )
        root, as_int8 = document.tenant.root(self._model.fingerprint), self._model.rounds_vectors
        before = root if parent is None else parent.id
        chained = await asyncio.to_thread(chain.extend, before, segments, as_int8=as_int8)
        reads_alone = self._model.config.reads_alone
        keys = await asyncio.to_thread(chain.alone, root, segments, as_int8=as_int8) if reads_alone else chained
        parent_keys = () if parent is None else parent.manifest.segments
        require_few(document.metadata or {})
        work = Work(segments, keys, parent_keys, document.keep_text, document.waits)
        summary = Summary(chained[-1], self._manifest(work, parent, document))

        # one id may be two tenants', where imports of anybody are taken
        flight = f"{document.tenant.account}:{summary.id}"

        async def complete() -> None:
            nonlocal summary
            summary = await self._complete(summary, work, document, flight)

        while (stored := await self._renewer.stored(summary.id, work, document)) is None:
            with self._watchers.watching(flight, report):
                try:
                    if await self._flights.run(flight, complete):
                        return self._done(summary, work, started)
                except Overloaded:  # of a call that does not wait, and was on its way
                    if not document.waits or work.is_begun:
                        raise
        return self._found(stored, [len(segment) for segment in segments], report, started)

    async def _cut(self, document: Document, token_ids: Sequence[int]) -> tuple[Summary | None, list[Sequence[int]]]:
        """The parent and the segments of a document that there is room for."""
        if not token_ids:
            raise InvalidRequest("the document is empty: it has 0 tokens", param="text")
        parent = None
        if document.parent is not None:
            parent = await self._summaries.of(document.tenant).get(document.parent, param="parent")
        segments = self._model.segments(token_ids)
        parent_tokens = () if parent is None else parent.manifest.segment_tokens
        self._model.require_segments((*parent_tokens, *(len(segment) for segment in segments)))
        return parent, segments

    def _found(
        self, summary: Summary, segment_tokens: Sequence[int], report: Report | None, started: float
    ) -> Compressed:
        """What a call did that found its document there, of these segments."""
        num_segments, num_tokens = len(segment_tokens), sum(segment_tokens)
        if report is not None:
            vectors = self._model.num_vectors_of(segment_tokens)
            report(Progress(num_segments, num_segments, num_segments, num_tokens, vectors))
        return self._observed(
            Compressed(
                summary,
                is_new=False,
                cached_segments=num_segments,
                cached_tokens=num_tokens,
                total_seconds=time.monotonic() - started,
            )
        )

    def _done(self, summary: Summary, work: Work, started: float) -> Compressed:
        """What a call did that had work of its own."""
        cached = [segment for place, segment in enumerate(work.segments) if place not in work.computed]
        return self._observed(
            Compressed(
                summary,
                is_new=True,
                cached_segments=len(cached),
                cached_tokens=sum(len(segment) for segment in cached),
                engine_seconds=work.engine_seconds,
                queue_seconds=work.meter.queue_seconds,
                total_seconds=time.monotonic() - started,
            ),
            num_computed=work.num_computed,
            num_computed_tokens=sum(len(work.segments[place]) for place in work.computed),
        )

    def _observed(self, done: Compressed, *, num_computed: int = 0, num_computed_tokens: int = 0) -> Compressed:
        self._metrics.compression_ratio.observe(done.summary.compression_ratio)
        self._metrics.segments.labels(source="cached").inc(done.cached_segments)
        self._metrics.segments.labels(source="computed").inc(num_computed)
        self._metrics.compress_tokens.labels(source="cached").inc(done.cached_tokens)
        self._metrics.compress_tokens.labels(source="computed").inc(num_computed_tokens)
        tally = current()
        if tally is not None:
            tally.cached(done.cached_tokens)
        return done

    def _manifest(self, work: Work, parent: Summary | None, document: Document) -> Manifest:
        segments = (*work.parent_keys, *work.keys)
        parent_tokens = () if parent is None else parent.manifest.segment_tokens
        segment_tokens = (*parent_tokens, *(len(segment) for segment in work.segments))
        return Manifest(
            fingerprint=self._model.fingerprint,
            segments=segments,
            segment_tokens=segment_tokens,
            vectors=self._model.num_vectors_of(segment_tokens),
            created=time.time(),
            metadata=document.metadata or {},
            parent=None if parent is None else parent.id,
            tenant=document.tenant.owner(self._model.fingerprint),
            has_text=work.keeps_text,
        )

    async def _complete(self, summary: Summary, work: Work, document: Document, flight: str) -> Summary:
        """Compute the segments that are not stored, and store the manifest; beside what others stored of it."""
        summaries = self._summaries.of(document.tenant)
        keeps_text = True  # what was stored of the text, where it was

        def beside(found: Summary | None, _: float | None) -> Summary:
            return merged(summary, found, keeps_text=keeps_text)

        try:
            for _ in range(MAX_ATTEMPTS):
                await self._worker.finish(
                    work, summaries.segments, lambda progress: self._watchers.tell(flight, progress)
                )
                try:
                    stored = await summaries.update(summary.id, beside, ttl_seconds=document.ttl_seconds)
                except MissingReferences as error:
                    logger.info("segments of %s were deleted meanwhile; computing them again", summary.id)
                    keeps_text = keeps_text and not any(map(is_text_key, error.keys))
                else:
                    assert stored is not None  # it is what `beside` gave
                    return stored
        except QuotaReached:  # nothing half-stored takes the room of what would fit
            await summaries.segments.forget([work.keys[place] for place in work.computed])
            raise
        finally:
            self._watchers.forget(flight)
        raise NotReady(f"segments of {summary.id} are deleted as fast as they are computed; try again later")


async def _digest(text: str) -> bytes:
    """A hash of a text; a long one would hold the event loop for a tenth of a second."""
    if len(text) <= LONG_TEXT:
        return hashlib.sha256(text.encode()).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(text.encode()).digest())
