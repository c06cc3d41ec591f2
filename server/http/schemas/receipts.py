"""What a reply says of its own cost."""

from pydantic import BaseModel, Field

from server.core.receipts import CacheTier


class ExpandedSegment(BaseModel):
    """A segment that was read as its text."""

    summary_id: str | None = Field(description="Null of what was compressed of the prompt itself.")
    segment: int = Field(description="Its place in the summary, or in the prompt's own text, from 0.")
    tokens: int


class Receipt(BaseModel):
    prefill_tokens_saved: int = Field(description="Document tokens that were not read, less the vectors read instead.")
    cache: CacheTier | None = Field(
        description="Where the summaries came from: keys and values in memory, the store, or computed now, the "
        "costliest of several; null where the call had none."
    )
    thinned_vectors: int = Field(description="Vectors of the summaries that were left out as less important.")
    expanded: list[ExpandedSegment] = Field(description="Segments that were read as their text, as `expand` asked.")
    queue_seconds: float = Field(description="The longest wait for the engine.")
    compute_seconds: float = Field(description="In the engine, after that.")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens read as they are.")
    summary_vectors: int = Field(description="Positions that summaries took.")
    thinned_vectors: int = Field(description="Vectors of the summaries that were left out as less important.")
    summarised_tokens: int = Field(description="Document tokens that those stand for.")
    completion_tokens: int = Field(description="Tokens generated or scored.")
    total_tokens: int = Field(description="Positions in all: prompt tokens, vectors and completion tokens.")
