"""Reranking as Cohere, Jina and vLLM shape it.

Of their fields `user` is taken and has no effect, and `rank_fields` where it names what is read anyway. Others are
refused, those that would have a document read in part among them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from server.http.schemas.base import EXAMPLE_ID, Body, Many, ModelName, NonEmptyText, Sealed, SummaryId, Text, example
from server.http.schemas.conditioning import MaxVectors
from server.http.schemas.receipts import Receipt, Usage
from server.limits import MAX_PASSAGES, MAX_TTL_SECONDS


class PassageBody(Body):
    """A text, a stored summary, or a conversation as /v1/responses/compact sealed it."""

    text: Text | None = None
    summary_id: SummaryId | None = None
    encrypted_content: Sealed | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "PassageBody":
        if [self.text, self.summary_id, self.encrypted_content].count(None) != 2:
            raise ValueError(
                "a document is one of a `text`, a `summary_id` and a compaction item's `encrypted_content`"
            )
        return self


# by its type, so that an error is about the form that was meant
PassageForm = Annotated[
    Annotated[Text, Tag("a text")] | Annotated[PassageBody, Tag("an object")],
    Discriminator(lambda value: "a text" if isinstance(value, str) else "an object"),
]


class RerankRequest(Body):
    model_config = example(
        query="Who keeps the lamp?",
        documents=["The keeper fills the lamp.", {"text": "The sea was calm."}, {"summary_id": EXAMPLE_ID}],
        top_n=2,
    )

    model: ModelName = None
    query: NonEmptyText
    documents: Many[PassageForm] = Field(min_length=1, max_length=MAX_PASSAGES)
    top_n: int | None = Field(None, ge=1, description="How many to answer with; null is all.")
    return_documents: bool | None = False
    max_vectors: MaxVectors = None
    ttl_seconds: float | None = Field(
        None, gt=0, le=MAX_TTL_SECONDS, description="How long to keep new summaries; those already stored keep theirs."
    )
    user: Text | None = None
    rank_fields: Many[Literal["text"]] | None = None
    max_tokens_per_doc: None = None
    max_chunks_per_doc: None = None

    @field_validator("max_tokens_per_doc", "max_chunks_per_doc", mode="before")
    @classmethod
    def _whole_documents(cls, limit: Any) -> Any:
        if limit is not None:
            raise ValueError("documents are read whole; shorten them before they are sent")
        return limit


class RerankDocument(BaseModel):
    text: str | None = None
    summary_id: str | None


class RerankResult(BaseModel):
    index: int
    relevance_score: float = Field(description="log p(query | document's summary), summed over the query's tokens.")
    summary_id: str | None = Field(
        description="Of the document, to give in its place next time; null of a conversation that has none."
    )
    document: RerankDocument | None = None


class RerankResponse(BaseModel):
    """Best first."""

    id: str
    model: str
    usage: Usage
    results: list[RerankResult]
    receipt: Receipt
