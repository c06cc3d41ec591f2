"""Searches of requests, and what they found as it is shown."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict

from server.core.generating import Generation
from server.core.receipts import Stopwatch
from server.core.searching import Found, Hit, Wanted
from server.http.answers.generation import Generated
from server.http.answers.receipts import shown_receipt, shown_usage, timing_headers
from server.http.schemas import corpora as schemas


def wanted_of(body: schemas.SearchBody) -> Wanted:
    return Wanted(
        body.query,
        by=body.by,
        candidates=body.candidates,
        limit=body.num_hits,
        reranks=body.rerank,
        max_vectors=body.max_vectors,
    )


def shown_search(found: Found, *, corpus: str, model: str) -> schemas.SearchResponse:
    return schemas.SearchResponse(
        id=f"search-{uuid.uuid4().hex}",
        model=model,
        corpus=corpus,
        candidates=found.num_candidates,
        hits=list(map(_shown, found.hits)),
        usage=shown_usage(found.usage),
        receipt=shown_receipt(found.receipt),
    )


def _shown(hit: Hit) -> schemas.SearchHit:
    passage, found = hit.passage, asdict(hit.found)
    del found["number"]
    return schemas.SearchHit(
        summary_id=passage.id,
        source_id=passage.source_id,
        text=passage.text,
        metadata=passage.metadata,
        tokens=len(passage.token_ids),
        vectors=hit.summary.manifest.vectors,
        relevance_score=hit.relevance,
        **found,
    )


class Asked:
    """An answer and what it stands on, whole or in chunks."""

    def __init__(self, generation: Generation, model: str, search: schemas.SearchResponse) -> None:
        self._generation, self._model = generation, model
        self._generated = Generated(generation, model)
        self._search = search

    def headers(self, searching: Stopwatch) -> dict[str, str]:
        """The times of both, from the search's start."""
        both = (searching, self._generation.watch)
        queued, computed = sum(each.meter.queue_seconds for each in both), sum(each.compute_seconds for each in both)
        return timing_headers(queued, computed, searching.started)

    async def whole(self) -> schemas.AskResponse:
        return schemas.AskResponse(**dict(await self._generated.whole()), search=self._search)

    async def chunks(self) -> AsyncGenerator[str]:
        """What it stands on, once the engine has begun, which may refuse; then as `Generated.chunks`."""
        async with aclosing(self._generated.chunks()) as chunks:
            first = await anext(chunks)
            opening = schemas.AskChunk(id=self._generation.id, model=self._model, text="", search=self._search)
            yield opening.model_dump_json(exclude={"finish_reason", "usage", "timings", "receipt"})
            yield first
            async for chunk in chunks:
                yield chunk
