"""Bodies of /score."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag, model_validator

from server.http.schemas.base import (
    A_LIST_OF_TEXTS,
    A_TEXT,
    EXAMPLE_ID,
    Many,
    ModelName,
    NonEmptyText,
    OneOrMany,
    example,
)
from server.http.schemas.conditioning import Conditioned
from server.http.schemas.receipts import Receipt, Usage
from server.limits import MAX_CONTINUATIONS

ManyScored = Annotated[Many[NonEmptyText], Field(min_length=1, max_length=MAX_CONTINUATIONS)]
Scored = Annotated[Annotated[NonEmptyText, Tag(A_TEXT)] | Annotated[ManyScored, Tag(A_LIST_OF_TEXTS)], OneOrMany]


class ScoreRequest(Conditioned):
    """`continuations` of a prompt, or in vLLM's form what follows each `text_1`: one for all, or as many."""

    model_config = example(summary_ids=[EXAMPLE_ID], prompt="I saw Mrs.", continuations=[" Stanard", " Smith"])

    model: ModelName = None
    continuations: ManyScored | None = None
    text_1: Scored | None = None
    text_2: Scored | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "ScoreRequest":
        if self.text_1 is None and self.text_2 is None:
            self._require_condition()
            if self.continuations is None:
                raise ValueError("give `continuations`, or `text_1` and `text_2`")
            return self
        if self.text_1 is None or self.text_2 is None:
            raise ValueError("`text_1` and `text_2` go together")
        if self.continuations is not None or self.context is not None or self.summary_ids or self.prompt is not None:
            raise ValueError("give either `text_1` and `text_2` or `continuations` of a prompt")
        if self.max_vectors is not None or self.expand is not None:
            raise ValueError("`max_vectors` and `expand` are of summaries, and `text_1` and `text_2` have none")
        firsts, seconds = (1 if isinstance(each, str) else len(each) for each in (self.text_1, self.text_2))
        if firsts not in (1, seconds):
            raise ValueError(f"`text_1` has {firsts} texts and `text_2` {seconds}; give one `text_1`, or as many")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """`text_1` and `text_2`, side by side; empty in the other form."""
        if self.text_1 is None or self.text_2 is None:
            return []
        seconds = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        firsts = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        return list(zip(firsts * len(seconds) if len(firsts) == 1 else firsts, seconds, strict=True))


class Score(BaseModel):
    index: int
    logprob: float = Field(description="Sum of the token log-probabilities, natural logarithm.")
    tokens: list[str] = Field(description="Of a part of a character its bytes, as bytes:\\xf0\\x9f.")
    token_ids: list[int]
    token_logprobs: list[float]


class ScoreResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    scores: list[Score]
    usage: Usage
    receipt: Receipt


class PairScore(BaseModel):
    index: int
    object: Literal["score"] = "score"
    score: float = Field(description="Mean of log p(token | text_1 and what stands before it) over text_2's tokens.")


class PairScoreResponse(BaseModel):
    """As vLLM's."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PairScore]
    usage: Usage
    receipt: Receipt
