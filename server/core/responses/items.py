"""Items of a conversation, as Open Responses has them (openresponses.org, 2026-04-24), and as they are kept."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

RESPONSE = "resp_"
_ANSWERED = re.compile("[a-z]+_([0-9a-f]{32})[0-9a-f]{4,}")
Role = Literal["system", "developer", "user", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True)
class TextPart:
    """A part of a message's content; a refusal is what an assistant said in place of an answer."""

    text: str
    is_refusal: bool = False


@dataclass(frozen=True)
class Message:
    id: str
    role: Role
    parts: tuple[TextPart, ...]
    status: Status = "completed"
    phase: Literal["commentary", "final_answer"] | None = None
    type: Literal["message"] = field(default="message", kw_only=True)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def instructs(self) -> bool:
        """Whether it says how to answer, and is kept word for word."""
        return self.role in ("system", "developer")


@dataclass(frozen=True)
class ToolCall:
    """What the model wants a function to do; `arguments` is JSON as a text."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Status = "completed"
    type: Literal["function_call"] = field(default="function_call", kw_only=True)


@dataclass(frozen=True)
class ToolOutput:
    """What the function of a call answered."""

    id: str
    call_id: str
    output: str
    status: Status = "completed"
    type: Literal["function_call_output"] = field(default="function_call_output", kw_only=True)


@dataclass(frozen=True)
class Compaction:
    """What stands for all items before it; `sealed` is opaque to clients (`sealing.py`)."""

    id: str
    sealed: str
    type: Literal["compaction"] = field(default="compaction", kw_only=True)


Item = Message | ToolCall | ToolOutput | Compaction

_items: TypeAdapter[tuple[Item, ...]] = TypeAdapter(tuple[Annotated[Item, Field(discriminator="type")], ...])


def answered_id(prefix: str, response_id: str, place: int) -> str:
    """The id of what a response answers at this place of its output, from which `response_of` knows the response."""
    return f"{prefix}_{response_id.removeprefix(RESPONSE)}{place:04x}"


def response_of(item_id: str) -> str | None:
    """The response that answered an item, by the item's id; None where the id is of no answer."""
    found = _ANSWERED.fullmatch(item_id)
    return None if found is None else RESPONSE + found[1]


def encode_items(items: Sequence[Item]) -> bytes:
    """As JSON."""
    return _items.dump_json(tuple(items))


def decode_items(data: bytes) -> tuple[Item, ...]:
    """What `encode_items` made; pydantic's ValidationError of anything else."""
    return _items.validate_json(data)
