"""Items of Open Responses between clients and the core."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from server.core.responses import items
from server.http.schemas import response_items as given


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def items_of(conversation: str | Sequence[Any] | None, referenced: Mapping[str, items.Item]) -> tuple[items.Item, ...]:
    """What a request says, each item with an id of its own where it came without; what nothing reads is left out.

    `referenced` has those that the request names by their ids.
    """
    if isinstance(conversation, str):
        return (items.Message(new_id("msg"), "user", (items.TextPart(conversation),)),)
    said = (
        referenced[item.id] if isinstance(item, given.ItemReference) else _item(item) for item in conversation or ()
    )
    return tuple(item for item in said if item is not None)


def shown(item: items.Item) -> dict[str, Any]:
    """An item as clients get it (openresponses.org, ItemField)."""
    match item:
        case items.Message():
            phase = {} if item.phase is None else {"phase": item.phase}
            content = [_shown_part(part, item.role) for part in item.parts]
            return _named(item, status=item.status, role=item.role, content=content, **phase)
        case items.ToolCall():
            return _named(item, status=item.status, call_id=item.call_id, name=item.name, arguments=item.arguments)
        case items.ToolOutput():
            return _named(item, status=item.status, call_id=item.call_id, output=item.output)
        case items.Compaction():
            return _named(item, encrypted_content=item.sealed)


def output_text(text: str) -> dict[str, Any]:
    """A part of an answer."""
    return {"type": "output_text", "text": text, "annotations": []}


def _named(item: items.Item, **fields: Any) -> dict[str, Any]:
    return {"id": item.id, "type": item.type, **fields}


def _shown_part(part: items.TextPart, role: str) -> dict[str, Any]:
    if part.is_refusal:
        return {"type": "refusal", "refusal": part.text}
    return output_text(part.text) if role == "assistant" else {"type": "input_text", "text": part.text}


def _item(item: Any) -> items.Item | None:
    match item:
        case given.MessageItem():
            return items.Message(item.id or new_id("msg"), item.role, _parts(item.content), phase=item.phase)
        case given.FunctionCallItem():
            return items.ToolCall(item.id or new_id("fc"), item.call_id, item.name, item.arguments)
        case given.FunctionCallOutputItem():
            output = "".join(part.text for part in _parts(item.output))
            return items.ToolOutput(item.id or new_id("fco"), item.call_id, output)
        case given.CompactionItem():
            return items.Compaction(item.id or new_id("cmp"), item.encrypted_content)
    return None


def _parts(content: str | Sequence[Any]) -> tuple[items.TextPart, ...]:
    if isinstance(content, str):
        return (items.TextPart(content),)
    return tuple(map(_part, content))


def _part(part: given.TextContent | given.RefusalContent) -> items.TextPart:
    if isinstance(part, given.RefusalContent):
        return items.TextPart(part.refusal, is_refusal=True)
    return items.TextPart(part.text)
