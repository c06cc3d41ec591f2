"""Passages of a corpus for a query: candidates by words or by nearness, reranked by their summaries."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.core.callers.visit import note
from server.core.corpora.corpus import Corpus
from server.core.corpora.passages import Passage
from server.core.documents.summaries import CarriedSegment, Summary
from server.core.receipts import Receipt, Stopwatch, Usage
from server.core.reranking import READ_TOGETHER, Reranker
from server.core.reranking import Passage as Ranked
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import Encoder
from server.errors import Internal, InvalidRequest, TooLong
from server.store.codec import Manifest

By = Literal["bm25", "nearest", "both"]
RANK_OFFSET = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)


@dataclass(frozen=True)
class Wanted:
    """What is searched for.

    Attributes:
        candidates: how many passages are found at most, by words, nearness or both. limit: how many of them are told.
        reranks: by the likelihood of the query after each one's summary. max_vectors: of each, as `Reranker.rank`.
    """

    query: str
    by: By = "bm25"
    candidates: int = 50
    limit: int = 5
    reranks: bool = True
    max_vectors: int | None = None

    @property
    def needs_engine(self) -> bool:
        return self.reranks or self.by != "bm25"


@dataclass(frozen=True)
class Candidate:
    """A passage's number in its corpus, and how it was found.

    Attributes:
        bm25: its score by words. distance: its vectors' mean from the query's; None where it was not found so.
        fused: the sum of 1 / (60 + rank) in both orders, where both were asked.
    """

    number: int
    bm25: float | None = None
    distance: float | None = None
    fused: float | None = None


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `relevance`: log p(query | its summary), where that was asked for."""

    passage: Passage
    summary: Summary
    found: Candidate
    relevance: float | None


@dataclass(frozen=True)
class Found:
    """The best hit first; of all candidates, what reranking them took."""

    hits: tuple[Hit, ...]
    num_candidates: int
    usage: Usage
    receipt: Receipt


class Searcher:
    """Searches corpora of one model."""

    def __init__(self, model: ServedModel, encoder: Encoder, reranker: Reranker) -> None:
        self._model = model
        self._encoder = encoder
        self._reranker = reranker

    async def search(self, corpus: Corpus, wanted: Wanted, *, tenant: Tenant, watch: Stopwatch) -> Found:
        """The passages that fit a query best; nothing is read from the store or written to it.

        Args:
            tenant: who asks; what the engine keeps of prompts is kept for it alone.

        Raises:
            ModelMismatch: the corpus is of another model. InvalidRequest: it has no index of what is nearest. And as
            `Reranker.rank`.
        """
        if corpus.manifest.fingerprint != self._model.fingerprint:
            what = f"the corpus {corpus.name!r}"
            raise self._model.mismatch(what, corpus.manifest.fingerprint, param="corpus")
        candidates = await self._candidates(corpus, wanted, watch)
        usage = Usage(prompt_tokens=0, completion_tokens=0)
        if wanted.reranks:
            hits: list[Hit] = []
            for start in range(0, len(candidates), READ_TOGETHER):
                some = await self._hits(corpus, candidates[start : start + READ_TOGETHER])
                ranked = await self._reranker.rank(
                    wanted.query,
                    [Ranked(held=hit.summary) for hit in some],
                    tenant=tenant,
                    watch=watch,
                    max_vectors=wanted.max_vectors,
                )
                usage += ranked.usage
                hits += [replace(some[place], relevance=ranked.scores[place]) for place in ranked.order]
                hits = sorted(hits, key=_irrelevance)[: wanted.limit]
        else:
            hits = await self._hits(corpus, candidates[: wanted.limit])
        note("read", *(hit.passage.id for hit in hits))
        return Found(tuple(hits), len(candidates), usage, _receipt(usage, watch))

    async def _candidates(self, corpus: Corpus, wanted: Wanted, watch: Stopwatch) -> list[Candidate]:
        """The best first."""
        words: list[tuple[int, float]] = []
        near: list[tuple[int, float]] = []
        if wanted.by != "bm25":
            corpus.require_nearest()
            mean = await self._mean(wanted.query, watch)
            near = await asyncio.to_thread(corpus.by_distance, mean, wanted.candidates)
        if wanted.by != "nearest":
            words = await asyncio.to_thread(corpus.by_words, wanted.query, wanted.candidates)
        scores, distances = dict(words), dict(near)
        found = [
            Candidate(number, scores.get(number), distances.get(number))
            for number in dict.fromkeys([*scores, *distances])
        ]
        if wanted.by != "both":
            return found
        fused = _fused([list(scores), list(distances)])
        found = [replace(each, fused=fused[each.number]) for each in found]
        return sorted(found, key=lambda each: -fused[each.number])[: wanted.candidates]

    async def _hits(self, corpus: Corpus, candidates: Sequence[Candidate]) -> list[Hit]:
        """These candidates' passages, in their order, not ranked."""
        passages = await asyncio.to_thread(self._read, corpus, [each.number for each in candidates])
        return [Hit(*one, found, None) for one, found in zip(passages, candidates, strict=True)]

    async def _mean(self, query: str, watch: Stopwatch) -> Tensor:
        """The mean of a query's own vectors, (D,), read as a document that is not kept."""
        tokenise = partial(self._model.tokenise_document, query, is_start=True)
        try:
            token_ids = await self._model.long_texts.in_thread(len(query), tokenise)
            self._model.require_segments(self._model.segment_lengths(len(token_ids)))
        except (InvalidRequest, TooLong) as error:
            error.param = "query"
            raise
        if not token_ids:
            raise InvalidRequest("the query has 0 tokens", param="query")
        segments = self._model.segments(token_ids)
        read = self._model.conditioning(range(len(segments)))
        total, num_vectors, place = torch.zeros(1), 0, 0  # no vectors of a long query are kept
        with watch.engine():
            async with aclosing(self._encoder.compress(segments, meter=watch.meter)) as summaries:
                async for each in summaries:
                    if place in read:
                        total = total + each.vectors.float().sum(dim=0)
                        num_vectors += len(each.vectors)
                    place += 1
        return total / num_vectors

    def _read(self, corpus: Corpus, numbers: Sequence[int]) -> list[tuple[Passage, Summary]]:
        """These passages, each with its vectors as a summary that is in no store. For a thread."""
        passages = corpus.read(numbers)
        return [
            (passage, self._summary(corpus, number, passage)) for number, passage in zip(numbers, passages, strict=True)
        ]

    def _summary(self, corpus: Corpus, number: int, passage: Passage) -> Summary:
        """A passage as prompts take it: by keys of this index, as another's vectors may differ under the same id."""
        lengths = self._model.segment_lengths(len(passage.token_ids))
        keys = tuple(f"{corpus.manifest.digest}:{number}:{place}" for place in range(len(lengths)))
        counts = list(map(self._model.config.num_vectors, self._model.conditioning(lengths)))
        if sum(counts) != passage.vectors.shape[0]:
            raise Internal(f"passage {number} of the corpus {corpus.name!r} is damaged: make the index again")
        vectors = passage.vectors.to(getattr(torch, self._model.dtype)).split(counts)
        ranks = [None] * len(counts) if passage.ranks is None else passage.ranks.split(counts)
        texts = self._model.conditioning(self._model.segments(passage.token_ids))
        carried = {
            key: CarriedSegment(SegmentSummary(own, own_ranks), tuple(text))
            for key, own, own_ranks, text in zip(self._model.conditioning(keys), vectors, ranks, texts, strict=True)
        }
        manifest = Manifest(
            fingerprint=corpus.manifest.fingerprint,
            segments=keys,
            segment_tokens=lengths,
            vectors=sum(counts),
            created=0.0,
            metadata=passage.metadata,
            has_text=True,
        )
        return Summary(passage.id, manifest, carried)


def _irrelevance(hit: Hit) -> float:
    assert hit.relevance is not None
    return -hit.relevance


def _receipt(usage: Usage, watch: Stopwatch) -> Receipt:
    """Of reranking."""
    return watch.receipt(
        saved=usage.summarised_tokens - usage.summary_vectors,
        cache=watch.tier(usage.summary_vectors, is_computed=False) if usage.summary_vectors else None,
        thinned=usage.thinned_vectors,
    )


def _fused(orders: Sequence[Sequence[int]]) -> dict[int, float]:
    """The reciprocal ranks of all that stand in any of these orders, summed."""
    fused: dict[int, float] = {}
    for order in orders:
        for rank, number in enumerate(order, start=1):
            fused[number] = fused.get(number, 0.0) + 1 / (RANK_OFFSET + rank)
    return fused
