"""`/score`: how likely texts are, conditioned on stored summaries."""

import time
import uuid
from functools import partial

from fastapi import APIRouter, Request, Response

from server.core.receipts import Stopwatch
from server.core.services import Services
from server.core.tenant import Tenant
from server.http.answers.conditions import call_of, condition_of
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.receipts import headers, shown_receipt, shown_usage
from server.http.answers.waiting import unless_disconnected
from server.http.routing import Route
from server.http.schemas import score as schemas

router = APIRouter(route_class=Route, responses=possible_errors())


@router.post("/score", tags=["generation"])
@router.post("/v1/score", include_in_schema=False)
async def score(
    body: schemas.ScoreRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> schemas.ScoreResponse | schemas.PairScoreResponse:
    """Log-probabilities of continuations after a prompt, conditioned on stored summaries.

    Prompt and continuations are tokenised apart; a continuation of whole words usually begins with a space.
    In vLLM's form, the score of each pair is the mean log-probability of the tokens of `text_2` after `text_1`.
    """
    services = core.models.named(body.model)
    watch = Stopwatch()
    answer: schemas.ScoreResponse | schemas.PairScoreResponse
    if body.pairs:
        answer = await unless_disconnected(request, _scored_pairs(body, services, tenant, watch))
    else:
        answer = await unless_disconnected(request, _scored(body, services, tenant, watch))
    response.headers.update(headers(watch))
    return answer


async def _scored(
    body: schemas.ScoreRequest, services: Services, tenant: Tenant, watch: Stopwatch
) -> schemas.ScoreResponse:
    call, condition = call_of(body, tenant), condition_of(body)
    score = partial(services.scorer.score, call, condition, body.continuations or [], watch=watch)
    scored = await services.door.through(score)
    return schemas.ScoreResponse(
        model=services.model.name,
        scores=[
            schemas.Score(
                index=index,
                logprob=result.total,
                tokens=list(tokens),
                token_ids=list(result.token_ids),
                token_logprobs=list(result.logprobs),
            )
            for index, (result, tokens) in enumerate(zip(scored.results, scored.tokens, strict=True))
        ],
        usage=shown_usage(scored.usage),
        receipt=shown_receipt(scored.receipt),
    )


async def _scored_pairs(
    body: schemas.ScoreRequest, services: Services, tenant: Tenant, watch: Stopwatch
) -> schemas.PairScoreResponse:
    def names(place: int) -> tuple[str, str]:
        return _place("text_1", body.text_1, place), _place("text_2", body.text_2, place)

    scored = await services.scorer.score_pairs(body.pairs, tenant=tenant, names=names, watch=watch)
    return schemas.PairScoreResponse(
        id=f"score-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=services.model.name,
        data=[
            schemas.PairScore(index=place, score=result.total / len(result.logprobs))
            for place, result in enumerate(scored.results)
        ],
        usage=shown_usage(scored.usage),
        receipt=shown_receipt(scored.receipt),
    )


def _place(name: str, given: str | list[str] | None, place: int) -> str:
    """Where the text of a pair stands in the field `name`, which may have one for all."""
    return f"{name}.{place if len(given) > 1 else 0}" if isinstance(given, list) else name
