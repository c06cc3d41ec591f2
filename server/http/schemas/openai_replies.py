"""Answers of OpenAI's completions and chat completions, whole and in chunks."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from server.http.schemas.receipts import ExpandedSegment

FinishReason = Literal["stop", "length"]


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(
        description="Of them, those whose segments were in the store, or whose keys and values in memory."
    )


class CompletionUsage(BaseModel):
    prompt_tokens: int = Field(description="All tokens of the prompts' texts, compressed and dropped ones included.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Contribution(BaseModel):
    id: str
    logprob: float = Field(description="log p(prompt's own tokens | all summaries) - log p(… | all but this one)")


class Compression(BaseModel):
    """What became of the prompts' tokens: `compressed_tokens`, `raw_tokens`, `dropped_tokens` and those of `expanded`
    segments without a summary are all of them."""

    compressed_tokens: int = Field(description="Read as summary vectors.")
    segments: int = Field(description="Segments those are.")
    cached_segments: int = Field(description="Of them, those that were in the store.")
    summary_vectors: int = Field(description="Positions that all summaries took, stored ones included.")
    thinned_vectors: int = Field(description="Vectors that were left out as less important.")
    raw_tokens: int = Field(description="Read as they are.")
    dropped_tokens: int = Field(description="Not read: older than what the window takes.")
    expanded: list[ExpandedSegment] = Field(description="Segments that were read as their text, as `expand` asked.")
    contributions: list[Contribution] | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="Null for tokens that nothing precedes, or not read raw.")
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(BaseModel):
    """A whole answer, or one chunk of a stream; usage and compression are of the whole and of the last chunk."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    compression: Compression | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Any] = Field(default=[], max_length=0, description="OpenAI's are of searches.")


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    compression: Compression


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class DeltaChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: CompletionUsage | None = None
    compression: Compression | None = None
