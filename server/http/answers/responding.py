"""A request for a response to the response: the conversation, the prompt, its answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from server.core.core import Core
from server.core.receipts import Stopwatch
from server.core.responses.items import Item, response_of
from server.core.responses.records import Conversation, Turn, forgetful
from server.core.responses.responding import Ask, Ready
from server.core.services import Services
from server.core.tenant import Tenant
from server.core.words import Words
from server.errors import InvalidRequest
from server.http.answers.choices import Choices
from server.http.answers.response_items import items_of
from server.http.answers.responses import Begun, Response
from server.http.answers.sampling import sampling_params
from server.http.schemas.response_items import ItemReference
from server.http.schemas.responses import Conversed, CountRequest, FunctionTool, ResponseRequest


async def respond(
    core: Core,
    tenant: Tenant,
    body: ResponseRequest,
    watch: Stopwatch,
    *,
    known: Mapping[str, Turn] | None = None,
    keep: Callable[[Turn], None] | None = None,
) -> Response:
    """A response whose prompt is ready.

    Args:
        known: turns that are not in the store, by their ids.
        keep: takes the turn where it is not stored.
    """
    prepare = partial(_prepared, core, tenant, body, watch, known, keep)
    return await core.models.named(body.model).door.through(prepare)


async def _prepared(
    core: Core,
    tenant: Tenant,
    body: ResponseRequest,
    watch: Stopwatch,
    known: Mapping[str, Turn] | None,
    keep: Callable[[Turn], None] | None,
) -> Response:
    services = core.models.named(body.model)
    conversation = await conversation_of(core, tenant, body, known)
    ask = replace(
        await asked(core, tenant, body, conversation, known),
        max_output_tokens=body.max_output_tokens,
        truncates=body.truncation == "auto",
        threshold=body.threshold,
        is_stored=body.store,
        expanded_segments=None if body.expand is None else body.expand.segments,
    )

    async def kept(turn: Turn) -> None:
        if body.previous_response_id in (known or {}):
            turn = forgetful(turn, conversation)
        if body.store:
            await core.records.put(tenant, turn)
        elif keep is not None:
            keep(turn)

    begun = Begun(
        items=ask.items,
        conversation=conversation,
        ready=None,
        choices=None,
        compaction=None,
        watch=watch,
        words=Words(services.model.tokenizer),
        has_tools=bool(ask.tools),
        keep=kept,
    )
    if body.is_trigger:
        made = await services.responder.compact(tenant, ask.all_items, is_stored=body.store, watch=watch)
        return Response(body, replace(begun, compaction=made), model=services.model)
    ready = await services.responder.ready(ask, watch)
    choices = _choices(core, services, body, ready, watch)
    return Response(
        body, replace(begun, ready=ready, choices=choices, compaction=ready.compaction), model=services.model
    )


async def asked(
    core: Core, tenant: Tenant, body: CountRequest, conversation: Conversation, known: Mapping[str, Turn] | None = None
) -> Ask:
    """What is said, in the core's terms."""
    return Ask(
        tenant=tenant,
        items=await said_in(core, tenant, body, known),
        conversation=conversation,
        instructions=body.instructions,
        max_vectors=body.max_vectors,
        tools=tuple({"type": "function", "function": _definition(tool)} for tool in body.offered_tools),
    )


async def said_in(
    core: Core, tenant: Tenant, body: Conversed, known: Mapping[str, Turn] | None = None
) -> tuple[Item, ...]:
    """The items of a request; InvalidRequest where it names one that no stored response answered."""
    given = body.input if isinstance(body.input, list) else ()
    references = {item.id: place for place, item in enumerate(given) if isinstance(item, ItemReference)}
    answered_by = {item_id: response_of(item_id) for item_id in references}
    turns = dict(known or {})
    absent = {response_id for response_id in answered_by.values() if response_id is not None} - turns.keys()
    turns |= await core.records.turns(tenant, sorted(absent), param="input")
    referenced: dict[str, Item] = {}
    for item_id, place in references.items():
        turn = turns.get(answered_by[item_id] or "")
        referenced |= {item.id: item for item in (() if turn is None else turn.output)}
        if item_id not in referenced:
            raise InvalidRequest(
                f"Item with id {item_id!r} not found: the output of no stored response has it",
                param=f"input.{place}.id",
            )
    return items_of(body.input, referenced)


async def conversation_of(
    core: Core, tenant: Tenant, body: Conversed, known: Mapping[str, Turn] | None = None
) -> Conversation:
    """What a request goes on from; PreviousResponseNotFound where it is not there."""
    if body.previous_response_id is None:
        return Conversation()
    last = (known or {}).get(body.previous_response_id, body.previous_response_id)
    return await core.records.conversation(tenant, last, param="previous_response_id")


def _choices(core: Core, services: Services, body: ResponseRequest, ready: Ready, watch: Stopwatch) -> Choices:
    params = sampling_params(body, services.model, max_tokens=ready.max_tokens)
    params = services.model.stopping(
        replace(params, stop=(*params.stop, *ready.stop), num_logprobs=body.top_logprobs or 0)
    )
    work = [(ready.prepared.prompt, params)]
    return Choices(services.decoder, work, watch, limit=core.settings.max_running_sequences, gap=ready.gap)


def _definition(tool: FunctionTool) -> dict[str, object]:
    """As chat templates take it."""
    return tool.model_dump(exclude_none=True, exclude={"type", "strict"})
