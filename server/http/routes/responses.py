"""`/v1/responses` and what is beside it: Open Responses (openresponses.org, 2026-04-24), and OpenAI's more."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from server.core.core import Core
from server.core.receipts import Stopwatch
from server.core.responses.items import Message
from server.core.responses.records import Turn
from server.core.responses.responding import require_known_calls
from server.core.tenant import Tenant
from server.errors import InvalidRequest
from server.http.answers import sse
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.receipts import headers
from server.http.answers.responding import asked, conversation_of, respond, said_in
from server.http.answers.response_items import new_id, shown
from server.http.answers.responses import shown_cost, usage
from server.http.answers.waiting import unless_disconnected
from server.http.routing import Route
from server.http.schemas import response_replies as replies
from server.http.schemas.responses import CompactRequest, CountRequest, ItemsPage, ResponseRequest

router = APIRouter(route_class=Route, tags=["responses"], responses=possible_errors())


@router.post("/v1/responses", response_model=replies.Response, responses={200: {"content": sse.CONTENT}})
@router.post("/responses", include_in_schema=False)
async def create_response(
    body: ResponseRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Answer a conversation: Open Responses.

    A conversation goes on by `previous_response_id`, or by items of earlier answers in `input`. With
    `context_management` it is compacted when it has grown so long: what was said becomes summary vectors, an item that
    stands before the reply and for all before itself. Of segments whose words a question has the text is read again
    (`expand`; without it as many as a sixteenth of the window takes).
    """
    watch = Stopwatch()
    return await sse.answered(request, response, watch, respond(core, tenant, body, watch), is_stream=bool(body.stream))


@router.post("/v1/responses/compact", response_model=replies.CompactedResponse)
@router.post("/responses/compact", include_in_schema=False)
async def compact(
    body: CompactRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Compact a conversation: its user messages as they are, and one item that stands for all of it.

    Of a conversation that begins with such an item only what is new is read. What systems and developers said is kept
    word for word in the item.
    """
    watch = Stopwatch()
    answer = await unless_disconnected(request, _compacted(core, tenant, body, watch))
    response.headers.update(headers(watch))
    return answer


@router.post("/v1/responses/input_tokens", response_model=replies.InputTokens)
@router.post("/responses/input_tokens", include_in_schema=False)
async def count_input_tokens(body: CountRequest, core: WithCore, tenant: WithTenant) -> Any:
    """How many input tokens a response would have: positions of what is compacted, and tokens of what is not."""
    ask = await asked(core, tenant, body, await conversation_of(core, tenant, body))
    require_known_calls(ask.all_items)
    return {"input_tokens": await core.models.named(body.model).responder.count(ask)}


@router.get("/v1/responses/{response_id}", response_model=replies.Response)
@router.get("/responses/{response_id}", include_in_schema=False)
async def get_response(response_id: str, core: WithCore, tenant: WithTenant) -> Any:
    """A response that is kept."""
    return (await core.records.get(tenant, response_id)).shown


@router.delete("/v1/responses/{response_id}", response_model=replies.DeletedResponse)
@router.delete("/responses/{response_id}", include_in_schema=False)
async def delete_response(response_id: str, core: WithCore, tenant: WithTenant) -> Any:
    """Forget a response. Those that go on from it, as far as the next compaction, cannot be gone on from any more."""
    await core.records.delete(tenant, response_id)
    return {"id": response_id}


@router.post("/v1/responses/{response_id}/cancel", response_model=replies.Response)
@router.post("/responses/{response_id}/cancel", include_in_schema=False)
async def cancel_response(response_id: str, core: WithCore, tenant: WithTenant) -> Any:
    """Cancel a response that runs in the background: here none does, and a client that leaves cancels its own."""
    await core.records.get(tenant, response_id)
    raise InvalidRequest(
        f"response {response_id!r} is over: only responses that run in the background can be cancelled", param="id"
    )


@router.get("/v1/responses/{response_id}/input_items", response_model=replies.Items)
@router.get("/responses/{response_id}/input_items", include_in_schema=False)
async def list_input_items(
    response_id: str, page: Annotated[ItemsPage, Query()], core: WithCore, tenant: WithTenant
) -> Any:
    """What a response answered, the newest first; of one that goes on from another, what was new."""
    turn = await core.records.get(tenant, response_id)
    return _page(turn, page)


def _page(turn: Turn, page: ItemsPage) -> dict[str, Any]:
    items = list(turn.input) if page.order == "asc" else list(reversed(turn.input))
    if page.after is not None:
        places = [place for place, item in enumerate(items) if item.id == page.after]
        if not places:
            raise InvalidRequest(f"response {turn.id!r} has no input item {page.after!r}", param="after")
        items = items[places[0] + 1 :]
    shown_items = [shown(item) for item in items[: page.limit]]
    return {
        "object": "list",
        "data": shown_items,
        "first_id": shown_items[0]["id"] if shown_items else None,
        "last_id": shown_items[-1]["id"] if shown_items else None,
        "has_more": len(items) > page.limit,
    }


async def _compacted(core: Core, tenant: Tenant, body: CompactRequest, watch: Stopwatch) -> dict[str, Any]:
    services = core.models.named(body.model)
    conversation = await conversation_of(core, tenant, body)
    items = (*conversation.items, *await said_in(core, tenant, body))
    item, cost = await services.responder.compact(tenant, items, is_stored=body.store, watch=watch)
    said_by_users = [each for each in items if isinstance(each, Message) and each.role == "user"]
    return {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*map(shown, said_by_users), shown(item)],
        "usage": usage(cost.tokens, cost.cached_tokens, 0),
        "compression": {"compaction": shown_cost(item, cost)},
    }
