"""Bodies of Open Responses (openresponses.org, 2026-04-24), with what OpenAI's and this server add to them.

Fields that change nothing here are taken and have no effect: `prompt_cache_key`, `prompt_cache_retention`,
`safety_identifier`, `user`, `service_tier`, `client_metadata`, `reasoning`, `include` (but for logprobs),
`parallel_tool_calls`, `max_tool_calls`, `stream_options` and `text.verbosity`. All others are refused.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from server.http.schemas.base import A_TEXT, EXAMPLE_MODEL, Body, FreeObject, Many, Text, example
from server.http.schemas.conditioning import ExpandOrNot, MaxVectors, Sampling
from server.http.schemas.response_items import Input, Trigger
from server.limits import (
    MAX_CONVERSATION_ITEMS,
    MAX_ITEM_ID,
    MAX_LISTED_ITEMS,
    MAX_LOGPROBS,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_VALUE,
    MAX_NEW_TOKENS,
    MAX_TOOL_NAME,
    MAX_TOOLS,
    MIN_OUTPUT_TOKENS,
)

LOGPROBS = "message.output_text.logprobs"
ITEMS = "a list of items"  # a tag, as those in `base.py`
Metadata = Annotated[
    dict[Annotated[Text, Field(max_length=MAX_METADATA_NAME)], Annotated[Text, Field(max_length=MAX_METADATA_VALUE)]],
    Field(max_length=MAX_METADATA),
]
Identifier = Annotated[str, Field(max_length=64)]
InputOrItems = Annotated[
    Annotated[Text, Tag(A_TEXT)] | Annotated[Input, Field(max_length=MAX_CONVERSATION_ITEMS), Tag(ITEMS)],
    Discriminator(lambda value: ITEMS if isinstance(value, list) else A_TEXT),
]


def _function_alone(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in (None, "function"):
        raise ValueError(f"there are no tools of type {kind!r} here; those of type 'function' are run by the client")
    return tool


def _unforced(choice: Any) -> Any:
    if choice not in ("auto", "none"):
        raise ValueError("a call cannot be forced: `tool_choice` is 'auto' or 'none'")
    return choice


def _plain(text_format: Any) -> Any:
    kind = text_format.get("type") if isinstance(text_format, dict) else None
    if kind not in (None, "text"):
        raise ValueError(f"answers are not held to a format here: {kind!r} is not supported, 'text' is")
    return text_format


def _foreground(value: Any) -> Any:
    if value is True:
        raise ValueError("there are no background responses; jobs of /jobs are what runs on without a client")
    return value


class FunctionTool(Body):
    type: Literal["function"]
    name: Annotated[Text, Field(min_length=1, max_length=MAX_TOOL_NAME)]
    description: Text | None = None
    parameters: FreeObject | None = None
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class TextSettings(Body):
    format: Annotated[TextFormat, BeforeValidator(_plain)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: Text | None = None
    summary: Text | None = None
    generate_summary: Text | None = None


class StreamOptions(Body):
    include_obfuscation: bool | None = None


class CompactionRule(Body):
    type: Literal["compaction"]
    compact_threshold: int = Field(
        ge=1, description="Compact the conversation where it is read as more positions than this."
    )


class Conversed(Body):
    """Whose answer is wanted, and to what."""

    model: Text = Field(description="The served model's name, as /v1/models gives it.")
    input: InputOrItems | None = Field(
        None,
        description="What was said: a text of the user's, or items. The newest compaction item stands for all before "
        "it.",
    )
    previous_response_id: Text | None = Field(
        None,
        max_length=MAX_ITEM_ID,
        description="Go on from this response: what was said and answered before stands before `input`.",
    )
    instructions: Text | None = Field(None, description="A system message before all, for this response alone.")
    prompt_cache_key: Identifier | None = None

    @model_validator(mode="after")
    def _something_said(self) -> "Conversed":
        if not self.input and self.previous_response_id is None:
            raise ValueError("`input` is missing or empty, and there is no `previous_response_id`")
        if any(isinstance(item, Trigger) for item in self._not_last):
            raise ValueError("`input` has a compaction_trigger that is not the last item of a response's")
        return self

    @property
    def _not_last(self) -> Sequence[object]:
        """Of the input, the items that may ask for nothing."""
        return self.input if isinstance(self.input, list) else ()


class CountRequest(Conversed):
    """What a response's input would be."""

    model_config = example(model=EXAMPLE_MODEL, input="Who keeps the lighthouse?")

    tools: Many[Annotated[FunctionTool, BeforeValidator(_function_alone)]] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Annotated[Literal["auto", "none"], BeforeValidator(_unforced)] | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: bool | None = None
    max_vectors: MaxVectors = None

    @property
    def offered_tools(self) -> list[FunctionTool]:
        """Those that the model may call."""
        return [] if self.tool_choice == "none" else list(self.tools or [])


class ResponseRequest(CountRequest, Sampling):
    model_config = example(model=EXAMPLE_MODEL, input="Who keeps the lighthouse?", max_output_tokens=24)

    max_output_tokens: int | None = Field(
        None,
        ge=MIN_OUTPUT_TOKENS,
        le=MAX_NEW_TOKENS,
        description="Null: as many as fit, up to a quarter of the window. An answer that is cut off is `incomplete`.",
    )
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    store: bool = Field(
        default=True,
        description="Keep the response, so that others can go on from it, and put what is compacted into the store; "
        "else nothing is kept, and a compaction item has the vectors themselves.",
    )
    background: Annotated[Literal[False], BeforeValidator(_foreground)] | None = False
    truncation: Literal["auto", "disabled"] | None = Field(
        "disabled", description="What exceeds the window is compressed, the oldest first, or refused."
    )
    metadata: Metadata | None = None
    context_management: Many[CompactionRule] | None = Field(
        None, max_length=1, description="Compact the conversation on the way, when it has grown so long."
    )
    include: Many[Text] | None = Field(None, max_length=16)
    expand: ExpandOrNot = None
    max_tool_calls: int | None = Field(None, ge=1)
    prompt_cache_retention: Text | None = None
    safety_identifier: Identifier | None = None
    user: Text | None = None
    service_tier: Text | None = None
    client_metadata: FreeObject | None = None

    @property
    def _not_last(self) -> Sequence[object]:
        return self.input[:-1] if isinstance(self.input, list) else ()

    @property
    def threshold(self) -> int | None:
        return self.context_management[0].compact_threshold if self.context_management else None

    @property
    def has_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or [])

    @property
    def is_trigger(self) -> bool:
        """Whether nothing but the conversation's compaction is asked for."""
        return isinstance(self.input, list) and bool(self.input) and isinstance(self.input[-1], Trigger)


class CompactRequest(Conversed):
    model_config = example(
        model=EXAMPLE_MODEL,
        input=[
            {"type": "message", "role": "user", "content": "We launch on Tuesday."},
            {"type": "message", "role": "assistant", "content": "Understood: Tuesday."},
        ],
    )

    store: bool = Field(
        default=True,
        description="Put the vectors into the store, the item naming them; else the item has them, as int8, and "
        "nothing is kept.",
    )
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None


class ItemsPage(BaseModel):
    """Parameters of the list of a response's input items."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=MAX_LISTED_ITEMS)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = Field(None, description="The id of an item: the page begins behind it.")
    include: list[str] | None = None
