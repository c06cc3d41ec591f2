"""`/generate`: a prompt continued, conditioned on stored summaries."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.http.answers import sse
from server.http.answers.conditions import call_of, condition_of
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.generation import Generated
from server.http.answers.receipts import headers
from server.http.answers.sampling import sampling_params
from server.http.answers.waiting import unless_disconnected
from server.http.routing import Route
from server.http.schemas import generate as schemas

router = APIRouter(route_class=Route, responses=possible_errors())


@router.post(
    "/generate",
    response_model=schemas.GenerateResponse,
    responses={200: {"content": sse.CONTENT}},
    tags=["generation"],
)
async def generate(
    body: schemas.GenerateRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Continue a prompt, conditioned on stored summaries.

    The texts of control tokens in a prompt stand for these.

    With `stream`, server-sent events: a chunk for each piece of text, the last with usage, then `[DONE]`.
    """
    services = core.models.named(body.model)
    params = partial(sampling_params, body, services.model)
    call, condition = call_of(body, tenant), condition_of(body)
    begin = partial(services.generator.begin, call, condition, params, max_tokens=body.max_tokens)
    generation = await unless_disconnected(request, services.door.through(begin))
    answer = Generated(generation, services.model.name)
    if body.stream:
        stream = await sse.streamed(request, answer.chunks())
        stream.headers.update(headers(generation.watch))
        return stream
    whole = await unless_disconnected(request, answer.whole())
    response.headers.update(headers(generation.watch))
    return whole
