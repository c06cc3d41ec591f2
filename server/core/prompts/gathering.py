"""Sources of a prompt, stored summaries and texts to compress, to the vectors that stand for them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.core.documents.compression import Compressor
from server.core.documents.document import Document
from server.core.documents.summaries import AllSummaries, Summaries, Summary
from server.core.documents.work import UNFINISHED_SECONDS
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import Decoder, Prompt
from server.errors import SummaryNotFound

Source = Summary | tuple[int, ...]  # what conditions a prompt: a stored summary, or token ids to compress


@dataclass(frozen=True)
class Share:
    """What of a source is read.

    Attributes:
        lengths: of each segment that conditions, how many positions it takes: its most important vectors, so many, or
            where it is expanded its tokens.
        expanded: the places in `lengths` of segments that are read as their text.
    """

    lengths: tuple[int, ...]
    expanded: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Gathered:
    """What a source conditions with: `vectors` (P, D), so many of each segment that `keys` name as `lengths` say.

    `cached_segments`: how many of a text's segments were not computed for it; 0 for a stored summary.
    `is_expanded`: of each of those segments, whether the input embeddings of its text stand in place of vectors.
    """

    vectors: Tensor
    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    cached_segments: int
    is_expanded: tuple[bool, ...] = ()

    @property
    def summary_vectors(self) -> Tensor:
        """`vectors` without the embeddings of texts."""
        parts = self.vectors.split(list(self.lengths)) if self.lengths else ()
        kept = [part for part, is_text in zip(parts, self.is_expanded, strict=True) if not is_text]
        return torch.cat(kept) if kept else self.vectors[:0]


@dataclass(frozen=True)
class _Rows:
    """A segment that is read: `key` in the store, `length` of its vectors, or of its tokens where it is expanded.

    `text`: those tokens, where they are known without the store. `summary`: the vectors, likewise.
    """

    key: str
    length: int
    is_expanded: bool
    is_whole: bool
    text: tuple[int, ...] | None = None
    summary: SegmentSummary | None = None

    @property
    def id(self) -> str:
        """As prompts name it: other rows, another id."""
        if self.is_expanded:
            return f"{self.key}:text"
        return self.key if self.is_whole else f"{self.key}:{self.length}"


class Gatherer:
    """Reads what sources condition with, compressing texts first; these are kept as long as an unfinished document."""

    def __init__(self, model: ServedModel, decoder: Decoder, summaries: AllSummaries, compressor: Compressor) -> None:
        self._model = model
        self._decoder = decoder
        self._summaries = summaries
        self._compressor = compressor

    async def gather(self, sources: Sequence[Source], shares: Sequence[Share], tenant: Tenant) -> list[Gathered]:
        """These shares of a tenant's sources, in order; all that is stored is read together.

        Raises:
            SummaryNotFound: deleted since it was read. And what the engine and the store raise.
        """
        summaries = self._summaries.of(tenant)
        stored = [await self._stored(source, tenant) for source in sources]
        rows = [
            list(self._rows(source, summary, share))
            for source, (summary, _), share in zip(sources, stored, shares, strict=True)
        ]
        vectors = await _vectors(summaries, [each for own in rows for each in own if not each.is_expanded])
        texts = await self._embedded(summaries, [each for own in rows for each in own if each.is_expanded])
        gathered = []
        for (summary, cached_segments), share, own in zip(stored, shares, rows, strict=True):
            parts = [next(texts if each.is_expanded else vectors) for each in own]
            present = [part for part in parts if part is not None]
            if len(present) < len(parts):
                raise SummaryNotFound(f"summary {summary.id!r} was deleted or has expired")
            cached = max(0, cached_segments - (len(share.lengths) - len(own)))
            gathered.append(self._gathered(own, present, cached))
        return gathered

    async def _stored(self, source: Source, tenant: Tenant) -> tuple[Summary, int]:
        """The summary of a source, and how many segments of a text were there."""
        if isinstance(source, Summary):
            return source, 0
        document = Document(tenant=tenant, token_ids=source, ttl_seconds=UNFINISHED_SECONDS)
        done = await self._compressor.compress(document)
        return done.summary, done.cached_segments

    def _rows(self, source: Source, summary: Summary, share: Share) -> Iterator[_Rows]:
        """What is read of each segment; nothing of one that has no share."""
        keys = self._model.conditioning(summary.manifest.segments)
        tokens = self._model.conditioning(summary.manifest.segment_tokens)
        for place, (key, num_tokens, length) in enumerate(zip(keys, tokens, share.lengths, strict=True)):
            if length:
                is_whole = length == self._model.config.num_vectors(num_tokens)
                is_expanded = place in share.expanded
                carried = summary.carried.get(key)
                text = None if carried is None else carried.token_ids
                if is_expanded and isinstance(source, tuple):
                    text = self._model.segment_of(source, place)
                yield _Rows(key, length, is_expanded, is_whole, text, None if carried is None else carried.summary)

    async def _embedded(self, summaries: Summaries, rows: Sequence[_Rows]) -> Iterator[Tensor | None]:
        """The input embeddings of these segments' tokens."""
        stored = iter(await summaries.segments.texts([each.key for each in rows if each.text is None]))
        texts = [next(stored) if each.text is None else each.text for each in rows]
        return iter([None if text is None else await asyncio.to_thread(self._decoder.embed, text) for text in texts])

    def _gathered(self, rows: Sequence[_Rows], parts: Sequence[Tensor], cached_segments: int) -> Gathered:
        empty = torch.empty(0, self._model.hidden_size, dtype=getattr(torch, self._model.dtype))
        return Gathered(
            torch.cat(list(parts)) if parts else empty,
            tuple(each.id for each in rows),
            tuple(part.shape[0] for part in parts),
            cached_segments,
            tuple(each.is_expanded for each in rows),
        )


async def _vectors(summaries: Summaries, rows: Sequence[_Rows]) -> Iterator[Tensor | None]:
    wanted = [each for each in rows if each.summary is None]
    stored = iter(await summaries.segments.read([row.key for row in wanted], [row.length for row in wanted]))
    found = [next(stored) if row.summary is None else row.summary.thinned(row.length) for row in rows]
    return iter([None if each is None else each.vectors for each in found])


def fused(gathered: Sequence[Gathered], token_ids: tuple[int, ...], tenant: Tenant) -> Prompt:
    """A tenant's prompt after all of these in order (arXiv 2305.14788, section 5)."""
    vectors = [each.vectors for each in gathered if each.keys]
    keys = tuple(key for each in gathered for key in each.keys)
    lengths = tuple(length for each in gathered for length in each.lengths)
    is_equal = len(set(lengths)) <= 1
    soft_prompt = torch.cat(vectors) if vectors else None
    return Prompt(soft_prompt, token_ids, keys, () if is_equal else lengths, scope=tenant.account)
