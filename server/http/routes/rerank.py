"""Passages ordered by a query."""

import time
import uuid

from fastapi import APIRouter, Request, Response

from server.core.reranking import Passage, Reranking
from server.http.answers.receipts import Stopwatch
from server.http.answers.summaries import With, errors
from server.http.answers.waiting import unless_disconnected
from server.http.schemas import rerank as schemas
from server.http.schemas.native import Usage

router = APIRouter(responses=errors(), tags=["generation"])


@router.post("/rerank")
@router.post("/v1/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(
    body: schemas.RerankRequest, request: Request, response: Response, served: With
) -> schemas.RerankResponse:
    """Order documents by how likely they make the query: log p(query | document's summary), summed over its tokens.

    Texts are compressed and stored on the way; a stored one is not read again, and lives no longer for it. Also at
    `/v1/rerank` and `/v2/rerank`.
    """
    served.model.require_name(body.model)
    passages = [
        Passage(each, ttl_seconds=body.ttl_seconds)
        if isinstance(each, str)
        else Passage(each.text, each.summary_id, body.ttl_seconds)
        for each in body.documents
    ]
    watch = Stopwatch()
    ranked = await unless_disconnected(
        request, served.reranker.rank(body.query, passages, watch.meter, max_vectors=body.max_vectors)
    )
    watch.add_engine(time.monotonic() - ranked.engine_seconds)
    usage = _usage(ranked)
    response.headers.update(watch.headers())
    return schemas.RerankResponse(
        id=f"rerank-{uuid.uuid4().hex}",
        model=served.model.name,
        usage=usage,
        results=[_result(body, ranked, place) for place in ranked.order[: body.top_n]],
        receipt=watch.receipt(
            saved=usage.summarised_tokens - usage.summary_vectors,
            cache=watch.tier(usage.summary_vectors, is_computed=ranked.is_computed),
            thinned=ranked.num_thinned,
        ),
    )


def _result(body: schemas.RerankRequest, ranked: Reranking, place: int) -> schemas.RerankResult:
    summary_id, given = ranked.summaries[place].id, body.documents[place]
    text = given if isinstance(given, str) else given.text
    return schemas.RerankResult(
        index=place,
        relevance_score=ranked.scores[place],
        summary_id=summary_id,
        document=schemas.RerankDocument(text=text, summary_id=summary_id) if body.return_documents else None,
    )


def _usage(ranked: Reranking) -> Usage:
    return Usage(
        prompt_tokens=ranked.num_separator_tokens,
        summary_vectors=ranked.num_vectors,
        thinned_vectors=ranked.num_thinned,
        summarised_tokens=sum(summary.tokens for summary in ranked.summaries),
        completion_tokens=ranked.num_query_tokens,
        total_tokens=ranked.num_separator_tokens + ranked.num_vectors + ranked.num_query_tokens,
    )
