"""Answers of Open Responses: what `answers/responses.py` makes, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """With further fields, as the specification has them."""

    model_config = ConfigDict(extra="allow")


class Usage(Answer):
    input_tokens: int = Field(description="Positions of what was compacted, and tokens of all else.")
    output_tokens: int
    total_tokens: int


class Response(Answer):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    model: str
    previous_response_id: str | None
    output: list[dict[str, Any]]
    usage: Usage | None
    compression: dict[str, Any] | None = Field(
        None, description="What became of the conversation's tokens, and what was compacted; of this server's own."
    )


class CompactedResponse(Answer):
    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: list[dict[str, Any]]
    usage: Usage


class InputTokens(Answer):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class DeletedResponse(Answer):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class Items(Answer):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
