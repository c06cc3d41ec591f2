"""Bodies of /search and /ask."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from server.http.schemas.base import Body, NonEmptyText, Text, example
from server.http.schemas.conditioning import Expand, MaxVectors, Sampling
from server.http.schemas.generate import GenerateChunk, GenerateResponse
from server.http.schemas.receipts import Receipt, Usage
from server.limits import MAX_NEW_TOKENS, MAX_PARTS, MAX_PASSAGES

DEFAULT_LIMIT = 5
ExpandPassages = Annotated[
    Expand | None,
    Field(description="Read the segments of the hits that the query speaks of most as text, in their place (BM25)."),
]


class SearchBody(Body):
    """What is searched for, and how."""

    model: Text | None = Field(
        None, description="A served model's name; null is the one that made the corpus, and no other is taken."
    )
    corpus: Text = Field(description="As the server's setting `corpora` names it.")
    query: NonEmptyText
    by: Literal["bm25", "nearest", "both"] = Field(
        "bm25",
        description="How candidates are found: by words, by the distance of their vectors' mean from the query's, or "
        "by both, reciprocal ranks summed.",
    )
    candidates: int = Field(50, ge=1, le=MAX_PASSAGES, description="How many are found at most.")
    limit: int | None = Field(
        None, ge=1, le=MAX_PARTS, description="How many hits, the best candidates. Null is 5, or as many as candidates."
    )
    rerank: bool = Field(
        default=True,
        description="Order candidates by how likely they make the query, as /rerank; else as they were found.",
    )
    max_vectors: MaxVectors = None

    @model_validator(mode="after")
    def _limit_is_of_candidates(self) -> "SearchBody":
        if self.limit is not None and self.limit > self.candidates:
            raise ValueError(f"`limit` is {self.limit}, more than the {self.candidates} `candidates`")
        return self

    @property
    def num_hits(self) -> int:
        return min(DEFAULT_LIMIT, self.candidates) if self.limit is None else self.limit


class SearchRequest(SearchBody):
    model_config = example(corpus="library", query="Who keeps the lamp?", limit=3)

    @model_validator(mode="after")
    def _vectors_are_of_reranking(self) -> "SearchRequest":
        if self.max_vectors is not None and not self.rerank:
            raise ValueError(f"`max_vectors` is {self.max_vectors}, and without `rerank` no vectors are read")
        return self


class AskRequest(SearchBody, Sampling):
    model_config = example(corpus="library", query="Who keeps the lamp?", limit=3, max_tokens=24, seed=1)

    expand: ExpandPassages = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="None: as many as fit, up to 128.")
    stream: bool = False


class SearchHit(BaseModel):
    summary_id: str = Field(
        description="As bulk compression gave it: other routes know it where it kept summaries in this server's store."
    )
    source_id: str
    text: str
    metadata: dict[str, str]
    tokens: int
    vectors: int
    bm25: float | None = Field(description="Null of a hit that was not found by its words.")
    distance: float | None = Field(description="Null of a hit that was not found by its distance.")
    fused: float | None = Field(description="By both: 1 / (60 + rank), summed.")
    relevance_score: float | None = Field(
        description="log p(query | passage's summary), summed over the query's tokens; null without `rerank`."
    )


class SearchResponse(BaseModel):
    """Best first; usage and receipt are of reranking."""

    id: str
    model: str
    corpus: str
    candidates: int = Field(description="How many were found.")
    hits: list[SearchHit]
    usage: Usage
    receipt: Receipt


class AskResponse(GenerateResponse):
    """Usage, timings and receipt are of the answer."""

    search: SearchResponse = Field(description="What the answer stands on.")


class AskChunk(GenerateChunk):
    """One server-sent event of a stream; the first has no text and what the answer stands on."""

    search: SearchResponse | None = None
