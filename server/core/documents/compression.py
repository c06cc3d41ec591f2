"""Text to summary: segments, their chain of keys, what is stored of them, the engine for the rest."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from server.core.documents import chain
from server.core.documents.progress import Progress, Report, Watchers
from server.core.documents.retention import Retention
from server.core.documents.single_flight import SingleFlight
from server.core.documents.summaries import Summaries, Summary, renewed
from server.core.documents.work import UNFINISHED_SECONDS, Work, Worker
from server.core.served_model import ServedModel
from server.engine.protocol import Engine
from server.errors import InvalidRequest, NotReady
from server.metrics import Metrics
from server.store import MissingReferences
from server.store.codec import Manifest

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # to finish a document whose segments are deleted meanwhile
MAX_KNOWN_TEXTS = 10_000  # whose ids are remembered, so that looking them up again does not tokenise


@dataclass(frozen=True)
class Compressed:
    """What `Compressor.compress` did.

    Attributes:
        is_new: the document was not there before.
        cached_segments, cached_tokens: of the text, what was not computed by this call.
        tokenize_seconds, engine_seconds: of `total_seconds`, spent on tokenising, and waited for the engine.
        queue_seconds: of `engine_seconds`, before the first forward pass.
        retention: where it was measured.
    """

    summary: Summary
    is_new: bool
    cached_segments: int
    cached_tokens: int
    tokenize_seconds: float
    engine_seconds: float
    queue_seconds: float
    total_seconds: float
    retention: Retention | None = None


class Compressor:
    """Keeps documents as chains of segments, each computed once."""

    def __init__(
        self, model: ServedModel, engine: Engine, summaries: Summaries, metrics: Metrics, *, tenant_salt: str
    ) -> None:
        self._model = model
        self._worker = Worker(model, engine, summaries.segments)
        self._summaries = summaries
        self._metrics = metrics
        self._reads_alone = model.config.reads_alone
        self._root = chain.root_key(model.fingerprint, tenant_salt)
        self.tenant = chain.derived_key(self._root, "tenant")  # whose list a new summary is in
        self._flights = SingleFlight()
        self._watchers = Watchers()
        self._renewals: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known_texts: OrderedDict[bytes, str] = OrderedDict()  # hash to summary id

    async def compress_text(
        self,
        text: str,
        *,
        parent_id: str | None = None,
        ttl_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
        keep_text: bool = False,
        renews: bool = True,
        report: Report | None = None,
    ) -> Compressed:
        """As `compress`, of a text; a whole one that was seen lately and is still stored is not tokenised again."""
        started = time.monotonic()
        text_hash = hashlib.sha256(text.encode()).digest()
        known = self._known_texts.get(text_hash) if parent_id is None else None
        if known is not None:
            self._known_texts.move_to_end(text_hash)
            stored = await self._renew(known, ttl_seconds, metadata, renews=renews)
            if stored is not None and (stored.manifest.has_text or not keep_text):
                return self._found(stored, stored.manifest.segment_tokens, report, started)
        # an empty text stays empty: a start token alone is no document
        is_start = parent_id is None
        token_ids = await asyncio.to_thread(self._model.tokenise_document, text, is_start=is_start) if text else []
        tokenize_seconds = time.monotonic() - started
        done = await self.compress(
            token_ids,
            parent_id=parent_id,
            ttl_seconds=ttl_seconds,
            metadata=metadata,
            keep_text=keep_text,
            renews=renews,
            report=report,
        )
        if parent_id is None:
            self._known_texts[text_hash] = done.summary.id
        if len(self._known_texts) > MAX_KNOWN_TEXTS:
            self._known_texts.popitem(last=False)
        return replace(done, tokenize_seconds=tokenize_seconds, total_seconds=done.total_seconds + tokenize_seconds)

    async def compress(
        self,
        token_ids: Sequence[int],
        *,
        parent_id: str | None = None,
        ttl_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
        keep_text: bool = False,
        renews: bool = True,
        report: Report | None = None,
    ) -> Compressed:
        """Compress a document, or what follows the one of `parent_id`; the summary is stored when this returns.

        Args:
            ttl_seconds: None keeps it for ever. metadata: added to what an equal document has.
            keep_text: store the segments' token ids, too.
            renews: whether an equal document that is stored gets both; without, it stays as it is.
            report: called when it is known what is stored, and for each segment as it is, whichever call computes it.

        Raises:
            InvalidRequest: no tokens, too much metadata, or a parent without the text that is to be kept.
            TooLong: more segments than the model has positions for.
            SummaryNotFound, ModelMismatch: of the parent. And what the engine and the store raise.
        """
        started = time.monotonic()
        parent, segments = await self._cut(token_ids, parent_id)
        if keep_text and parent is not None and not parent.manifest.has_text:
            raise InvalidRequest(
                f"the text of parent {parent.id!r} was not kept, so no whole one is", param="keep_text"
            )
        chained = await asyncio.to_thread(chain.extend, self._root if parent is None else parent.id, segments)
        keys = await asyncio.to_thread(chain.alone, self._root, segments) if self._reads_alone else chained
        work = Work(segments, keys, () if parent is None else parent.manifest.segments, keep_text)
        summary = Summary(chained[-1], self._manifest(work, parent, metadata or {}))

        while (stored := await self._stored(summary.id, work, ttl_seconds, metadata, renews=renews)) is None:
            with self._watchers.watching(summary.id, report):
                if await self._flights.run(summary.id, lambda: self._complete(summary, work, ttl_seconds)):
                    return self._done(summary, work, started)
        return self._found(stored, [len(segment) for segment in segments], report, started)

    async def require_possible(self, token_ids: Sequence[int], *, parent_id: str | None = None) -> int:
        """Raise what `compress` would before any work, and say how many segments it would cut."""
        _, segments = await self._cut(token_ids, parent_id)
        return len(segments)

    async def _cut(self, token_ids: Sequence[int], parent_id: str | None) -> tuple[Summary | None, list[Sequence[int]]]:
        """The parent and the segments of a document that there is room for."""
        if not token_ids:
            raise InvalidRequest("the document is empty: it has 0 tokens", param="text")
        parent = await self._summaries.get(parent_id, param="parent") if parent_id is not None else None
        length = self._model.config.segment_length
        segments = [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
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
                tokenize_seconds=0.0,
                engine_seconds=0.0,
                queue_seconds=0.0,
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
                tokenize_seconds=0.0,
                engine_seconds=work.engine_seconds,
                queue_seconds=work.meter.queue_seconds,
                total_seconds=time.monotonic() - started,
            ),
            num_computed=work.num_computed,
        )

    def _observed(self, done: Compressed, *, num_computed: int = 0) -> Compressed:
        self._metrics.compress_seconds.observe(done.total_seconds)
        self._metrics.compression_ratio.observe(done.summary.compression_ratio)
        self._metrics.segments.labels(source="cached").inc(done.cached_segments)
        self._metrics.segments.labels(source="computed").inc(num_computed)
        return done

    def _manifest(self, work: Work, parent: Summary | None, metadata: dict[str, str]) -> Manifest:
        segments = (*work.parent_keys, *work.keys)
        parent_tokens = () if parent is None else parent.manifest.segment_tokens
        segment_tokens = (*parent_tokens, *(len(segment) for segment in work.segments))
        return Manifest(
            fingerprint=self._model.fingerprint,
            segments=segments,
            segment_tokens=segment_tokens,
            vectors=self._model.num_vectors_of(segment_tokens),
            created=time.time(),
            metadata=metadata,
            parent=None if parent is None else parent.id,
            tenant=self.tenant,
            has_text=work.keeps_text,
        )

    async def _stored(
        self,
        summary_id: str,
        work: Work,
        ttl_seconds: float | None,
        metadata: dict[str, str] | None,
        *,
        renews: bool,
    ) -> Summary | None:
        """As `_renew`, and its text where it is to be kept and was not."""
        found = await self._renew(summary_id, ttl_seconds, metadata, renews=renews)
        if found is None or found.manifest.has_text or not work.keeps_text:
            return found
        async with self._renewals.setdefault(summary_id, asyncio.Lock()):
            await self._summaries.segments.put_texts(work.keys, work.segments, ttl_seconds=UNFINISHED_SECONDS)
            current = await self._summaries.find(summary_id)
            if current is None:
                return None
            better = replace(current[0], manifest=replace(current[0].manifest, has_text=True))
            try:
                await self._summaries.put(better, ttl_seconds=ttl_seconds)
            except MissingReferences:
                return None
            return better

    async def _renew(
        self, summary_id: str, ttl_seconds: float | None, metadata: dict[str, str] | None, *, renews: bool
    ) -> Summary | None:
        """The summary where it is stored, with more metadata and a longer life where asked for; else None."""
        found = await self._summaries.find(summary_id)
        if found is None or not renews or renewed(*found, ttl_seconds, metadata) is None:
            return None if found is None else found[0]
        async with self._renewals.setdefault(summary_id, asyncio.Lock()):  # one at a time, or one's metadata is lost
            found = await self._summaries.find(summary_id)
            better = None if found is None else renewed(*found, ttl_seconds, metadata)
            if found is None or better is None:
                return None if found is None else found[0]
            try:
                await self._summaries.put(better, ttl_seconds=ttl_seconds)
            except MissingReferences:
                return None
            return better

    async def _complete(self, summary: Summary, work: Work, ttl_seconds: float | None) -> None:
        """Compute the segments that are not stored, and store the manifest."""
        try:
            for _ in range(MAX_ATTEMPTS):
                await self._worker.finish(work, lambda progress: self._watchers.tell(summary.id, progress))
                try:
                    await self._summaries.put(summary, ttl_seconds=ttl_seconds)
                except MissingReferences:
                    logger.info("segments of %s were deleted meanwhile; computing them again", summary.id)
                else:
                    return
        finally:
            self._watchers.forget(summary.id)
        raise NotReady(f"segments of {summary.id} are deleted as fast as they are computed; try again later")
