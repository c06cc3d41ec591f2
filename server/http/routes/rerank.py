"""Passages ordered by a query."""

import uuid

from fastapi import APIRouter, Request, Response

from server.core.receipts import Stopwatch
from server.core.reranking import Passage, Reranking
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.receipts import headers, shown_receipt, shown_usage
from server.http.answers.waiting import unless_disconnected
from server.http.routing import Route
from server.http.schemas import rerank as schemas

router = APIRouter(route_class=Route, responses=possible_errors(), tags=["generation"])


@router.post("/rerank")
@router.post("/v1/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(
    body: schemas.RerankRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> schemas.RerankResponse:
    """Order documents by how likely they make the query: log p(query | document's summary), summed over its tokens.

    Texts are compressed and stored on the way; a stored one is not read again, and lives no longer for it. Also at
    `/v1/rerank` and `/v2/rerank`.
    """
    services = core.models.named(body.model)
    passages = [
        Passage(each, ttl_seconds=body.ttl_seconds)
        if isinstance(each, str)
        else Passage(each.text, each.summary_id, body.ttl_seconds, each.encrypted_content)
        for each in body.documents
    ]
    watch = Stopwatch()
    ranking = services.reranker.rank(body.query, passages, tenant=tenant, watch=watch, max_vectors=body.max_vectors)
    ranked = await unless_disconnected(request, ranking)
    response.headers.update(headers(watch))
    return schemas.RerankResponse(
        id=f"rerank-{uuid.uuid4().hex}",
        model=services.model.name,
        usage=shown_usage(ranked.usage),
        results=[_result(body, ranked, place) for place in ranked.order[: body.top_n]],
        receipt=shown_receipt(ranked.receipt),
    )


def _result(body: schemas.RerankRequest, ranked: Reranking, place: int) -> schemas.RerankResult:
    summary_id, given = ranked.passages[place].summary_id, body.documents[place]
    text = given if isinstance(given, str) else given.text
    return schemas.RerankResult(
        index=place,
        relevance_score=ranked.scores[place],
        summary_id=summary_id,
        document=schemas.RerankDocument(text=text, summary_id=summary_id) if body.return_documents else None,
    )
