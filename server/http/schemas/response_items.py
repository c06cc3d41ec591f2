"""Items as clients send them; fields that others' servers put there are left out."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from server.http.schemas.base import A_TEXT, Body, Many, Sealed, Text
from server.limits import MAX_ITEM_ID, MAX_PARTS

PARTS, A_REFUSAL = "parts of it", "a refusal"  # tags, as those in `base.py`
UNREAD = {"input_image": "images", "input_file": "files", "input_audio": "audio", "input_video": "videos"}


def _text_alone(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in UNREAD:
        raise ValueError(f"{kind!r}: this server reads text, and no {UNREAD[kind]}")
    return part


class Given(Body):
    model_config = ConfigDict(extra="ignore")


class TextContent(Given):
    type: Literal["input_text", "output_text", "text", "summary_text"]
    text: Text


class RefusalContent(Given):
    type: Literal["refusal"]
    refusal: Text


Part = Annotated[
    Annotated[TextContent, Tag(A_TEXT)] | Annotated[RefusalContent, Tag(A_REFUSAL)],
    Discriminator(lambda value: A_REFUSAL if isinstance(value, dict) and value.get("type") == "refusal" else A_TEXT),
    BeforeValidator(_text_alone),
]
Content = Annotated[
    Annotated[Text, Tag(A_TEXT)] | Annotated[Many[Part], Field(max_length=MAX_PARTS), Tag(PARTS)],
    Discriminator(lambda value: PARTS if isinstance(value, list) else A_TEXT),
]
Id = Annotated[str, Field(max_length=MAX_ITEM_ID)]
Status = Literal["in_progress", "completed", "incomplete"]


class MessageItem(Given):
    type: Literal["message"] = "message"
    id: Id | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(Given):
    type: Literal["function_call"]
    id: Id | None = None
    call_id: Id
    name: Text
    arguments: Text
    status: Status | None = None


class FunctionCallOutputItem(Given):
    type: Literal["function_call_output"]
    id: Id | None = None
    call_id: Id
    output: Content
    status: Status | None = None


class ItemReference(Given):
    """What a stored response answered, by its id in place of itself."""

    type: Literal["item_reference"] = "item_reference"
    id: Id


class ReasoningItem(Given):
    """What a model thought; none here thinks, and none reads it."""

    type: Literal["reasoning"]


class CompactionItem(Given):
    type: Literal["compaction"]
    id: Id | None = None
    encrypted_content: Sealed


class Trigger(Given):
    """Asks for the compaction of all before it, and for nothing else."""

    type: Literal["compaction_trigger"]


def _kind(item: Any) -> str | None:
    """The tag of an item: its type, and what keeps it from being taken for a field in errors."""
    if not isinstance(item, dict):
        return None
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    return f"{kind} item"


GivenItem = Annotated[
    Annotated[MessageItem, Tag("message item")]
    | Annotated[FunctionCallItem, Tag("function_call item")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output item")]
    | Annotated[ReasoningItem, Tag("reasoning item")]
    | Annotated[CompactionItem, Tag("compaction item")]
    | Annotated[ItemReference, Tag("item_reference item")]
    | Annotated[Trigger, Tag("compaction_trigger item")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="an item is of one of the types message, function_call, function_call_output, reasoning, "
        "compaction, item_reference and compaction_trigger",
    ),
]
Input = Many[GivenItem]
