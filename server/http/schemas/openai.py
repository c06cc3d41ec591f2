"""Bodies of OpenAI's completions and chat completions, with what this server adds to them.

Of OpenAI's fields those that change nothing here are taken and have no effect: `user`, `safety_identifier`,
`prompt_cache_key`, `metadata`, `store`, `service_tier`, `parallel_tool_calls`, `verbosity`, `reasoning_effort`, a
message's `name`, and `best_of`, `suffix`, `response_format`, `modalities`, what is of tools, and the parts of an
assistant's message where they ask for nothing. All others are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from server.core.prompts.prepared import Order
from server.core.prompts.window import Truncate
from server.http.schemas.base import (
    A_LIST_OF_TEXTS,
    A_TEXT,
    EXAMPLE_ID,
    EXAMPLE_MODEL,
    Body,
    Many,
    ParseSpecial,
    Sealed,
    SummaryId,
    Text,
    TokenIds,
    example,
)
from server.http.schemas.conditioning import ExpandOrNot, MaxVectors, Sampling
from server.limits import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_NEW_TOKENS,
    MAX_PARTS,
    MAX_PROMPTS,
)

CONTENT_PARTS = "content parts"  # a tag, as those in `base.py`

TokenIdText = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
NoItems = Annotated[Many[Any], Field(max_length=0)]


class TextContent(Body):
    type: Literal["text"]
    text: Text


class SummaryContent(Body):
    """A stored summary."""

    type: Literal["summary"]
    id: SummaryId


class CompactionContent(Body):
    """A conversation as /v1/responses/compact sealed it; its item may stand here as it is."""

    type: Literal["compaction"]
    encrypted_content: Sealed
    id: Text | None = None


ContentPart = Annotated[TextContent | SummaryContent | CompactionContent, Field(discriminator="type")]
Parts = Annotated[Many[ContentPart], Field(min_length=1, max_length=MAX_PARTS)]


def _form_of_prompt(prompt: Any) -> str:
    """Which form a prompt means to be, so that an error is about that one."""
    if not isinstance(prompt, list):
        return A_TEXT
    first = prompt[0] if prompt else ""
    forms: dict[type, str] = {int: "token ids", float: "token ids", list: "lists of token ids", dict: CONTENT_PARTS}
    return forms.get(type(first), A_LIST_OF_TEXTS)


Prompt = Annotated[
    Annotated[Text, Tag(A_TEXT)]
    | Annotated[Many[Text], Field(min_length=1, max_length=MAX_PROMPTS), Tag(A_LIST_OF_TEXTS)]
    | Annotated[TokenIds, Field(min_length=1), Tag("token ids")]
    | Annotated[Many[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS), Tag("lists of token ids")]
    | Annotated[Parts, Tag(CONTENT_PARTS)],
    Discriminator(_form_of_prompt),
]


class StreamOptions(Body):
    include_usage: bool | None = Field(default=False, description="A last chunk with usage, before [DONE].")
    include_obfuscation: Literal[False] | None = False


class ResponseFormat(Body):
    type: Literal["text"]


class Asked(Sampling):
    """What both routes have."""

    model: Text = Field(description="The served model's name, as /v1/models gives it.")
    n: int | None = Field(1, ge=1, le=MAX_CHOICES, description="Choices for each prompt, drawn concurrently.")
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]] | None
    ) = Field(None, max_length=MAX_BIASES, description="Token ids, and what is added to their logits.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    truncate: Truncate = Field(
        "compress",
        description="Where prompt and max_tokens exceed the window: compress the oldest tokens into summary vectors, "
        "refuse, or drop the oldest tokens.",
    )
    raw_tokens: int | None = Field(
        None, ge=1, description="How many last tokens stay uncompressed at least; null is the server's setting."
    )
    max_vectors: MaxVectors = None
    expand: ExpandOrNot = None
    fuse: Order = Field(
        "given",
        description="Order of the summaries: as given, or the nearest to the prompt last, by the L2 distance of the "
        "means of their vectors to that of the prompt compressed.",
    )
    contributions: bool = Field(
        default=False,
        description="Report for each summary how much it raises the log-probability of the prompt's own tokens.",
    )
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def has_usage_chunk(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "Asked":
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream`: true")
        return self


class CompletionRequest(Asked):
    model_config = example(model=EXAMPLE_MODEL, prompt="It was a bright cold day in April", max_tokens=16, seed=1)

    prompt: Prompt
    max_tokens: int | None = Field(16, ge=0, le=MAX_NEW_TOKENS, description="0 with `echo` scores the prompt.")
    echo: bool | None = Field(default=False, description="Begin the answer with the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="How many of the most likely tokens to report beside each one's own."
    )
    best_of: int | None = Field(None, ge=1, description="Has to equal `n`.")
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _possible(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != self.num_choices:
            raise ValueError(f"`best_of` is {self.best_of}; choosing among more than `n` is not supported")
        num_prompts = len(self.prompt) if isinstance(self.prompt, list) and self._is_batch else 1
        if num_prompts * self.num_choices > MAX_PROMPTS:
            raise ValueError(f"{num_prompts} prompts of {self.num_choices} choices exceed the limit of {MAX_PROMPTS}")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("`max_tokens` is 0; without `echo` there is nothing to answer")
        if self.contributions and num_prompts > 1:
            raise ValueError("`contributions` are of one prompt; there are several")
        return self

    @property
    def _is_batch(self) -> bool:
        return isinstance(self.prompt, list) and bool(self.prompt) and isinstance(self.prompt[0], str | list)

    @property
    def prompts(self) -> list[str | list[int] | list[ContentPart]]:
        """One for each group of `n` choices."""
        prompts: Any = self.prompt if self._is_batch else [self.prompt]
        return list(prompts)

    @property
    def places(self) -> list[str]:
        """Of each of the prompts, the field, as an error names it."""
        return [f"prompt.{index}" for index in range(len(self.prompt))] if self._is_batch else ["prompt"]


Content = Annotated[
    Annotated[Text, Tag(A_TEXT)] | Annotated[Parts, Tag(CONTENT_PARTS)],
    Discriminator(lambda value: CONTENT_PARTS if isinstance(value, list) else A_TEXT),
]


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: str | None = None
    # as OpenAI's clients send back what they got
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: NoItems | None = None
    annotations: NoItems | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise ValueError("`content` is missing")
        return self


class ChatRequest(Asked):
    model_config = example(
        model=EXAMPLE_MODEL,
        messages=[
            {
                "role": "user",
                "content": [{"type": "summary", "id": EXAMPLE_ID}, {"type": "text", "text": "Who came in?"}],
            }
        ],
        max_tokens=24,
    )

    messages: Many[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="Null: until the window is full.")
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="The same by its newer name.")
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    parse_special: ParseSpecial = False
    response_format: ResponseFormat | None = None
    modalities: Annotated[Many[Literal["text"]], Field(min_length=1)] | None = None
    tools: NoItems | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: NoItems | None = None
    function_call: Literal["none", "auto"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    @model_validator(mode="after")
    def _possible(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give either `max_tokens` or `max_completion_tokens`")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs`: true")
        num_summaries = sum(
            not isinstance(part, TextContent)
            for message in self.messages
            if isinstance(message.content, list)
            for part in message.content
        )
        if num_summaries > MAX_PARTS:
            raise ValueError(f"the messages have {num_summaries} summaries; the limit is {MAX_PARTS}")
        return self

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
