"""What a call is conditioned on, and how tokens are chosen."""

from typing import Annotated

from pydantic import Field, Tag, model_validator

from server.http.schemas.base import (
    A_LIST_OF_TEXTS,
    A_TEXT,
    Body,
    Many,
    NonEmptyText,
    OneOrMany,
    Sealed,
    SummaryId,
    Text,
)
from server.limits import (
    MAX_EXPANDED,
    MAX_PARTS,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TEMPERATURE,
)


class Part(Body):
    """A stored summary, a text, or a conversation as /v1/responses/compact sealed it."""

    summary_id: SummaryId | None = None
    text: Text | None = None
    encrypted_content: Sealed | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Part":
        if [self.summary_id, self.text, self.encrypted_content].count(None) != 2:
            raise ValueError("a part is one of a `summary_id`, a `text` and a compaction item's `encrypted_content`")
        return self


class Expand(Body):
    segments: int = Field(
        ge=0,
        le=MAX_EXPANDED,
        description="How many, 0 for none, of all summaries together; of what was compressed of the prompt itself at "
        "most a quarter of the window.",
    )


ExpandOrNot = Annotated[
    Expand | None,
    Field(
        description="Read the segments that the prompt speaks of most as text, in their place: of summaries whose text "
        "was kept (`keep_text`), and of what had to be compressed of the prompt itself. By the words (BM25) of a "
        "chat's last message, else of the prompt's last 128 tokens."
    ),
]
MaxVectors = Annotated[
    int | None,
    Field(
        ge=1,
        description="Read so many vectors of each summary, and of what had to be compressed of the prompt itself: the "
        "most important ones, shared out over its segments. Null is all; where those do not fit, older segments keep "
        "fewer. Refused where vectors have no order.",
    ),
]


class Conditioned(Body):
    """What a call is conditioned on: `context`, or its short form `summary_ids` and then `prompt`."""

    context: Many[Part] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PARTS,
        description="Summaries and texts in order. A text before a summary is compressed in its place; "
        "where none follows the last, what comes next goes on from the summaries.",
    )
    summary_ids: Many[SummaryId] = Field(default_factory=list, max_length=MAX_PARTS)
    prompt: Text | None = Field(None, description="May be left out after summaries, to go on where they end.")
    max_vectors: MaxVectors = None
    expand: ExpandOrNot = None

    @model_validator(mode="after")
    def _one_form(self) -> "Conditioned":
        self._require_condition()
        return self

    def _require_condition(self) -> None:
        if self.context is None and self.prompt is None and not self.summary_ids:
            raise ValueError("give `prompt`, `summary_ids` or both, or `context`")
        if self.context is not None and (self.summary_ids or self.prompt is not None):
            raise ValueError("give either `context` or `summary_ids` and `prompt`")

    @property
    def parts(self) -> list[Part]:
        """The parts in order, whichever form they came in."""
        if self.context is not None:
            return self.context
        return [*(Part(summary_id=summary_id) for summary_id in self.summary_ids), Part(text=self.prompt or "")]


Stops = Annotated[
    Annotated[NonEmptyText, Tag(A_TEXT)]
    | Annotated[Many[NonEmptyText], Field(max_length=MAX_STOPS), Tag(A_LIST_OF_TEXTS)],
    OneOrMany,
]


class Sampling(Body):
    """How tokens are chosen; null is the model's own default, which `/info` tells."""

    temperature: float | None = Field(
        None, ge=0, le=MAX_TEMPERATURE, description="0 takes the most likely token. Null is the model's own, or 1."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Null is the model's own, or 1.")
    top_k: int | None = Field(None, ge=-1, description="Null is the model's own, or all; -1 and 0 are all, as vLLM's.")
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least share of the most likely token's probability. Null is the model's own, or 0.",
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=MAX_REPETITION_PENALTY,
        description="For tokens of the prompt and of the answer. Null is the model's own, or 1.",
    )
    frequency_penalty: float | None = Field(0.0, ge=-MAX_PENALTY, le=MAX_PENALTY)
    presence_penalty: float | None = Field(0.0, ge=-MAX_PENALTY, le=MAX_PENALTY)
    ignore_eos: bool | None = Field(default=False, description="Go on after the end-of-text token.")
    seed: int | None = Field(None, ge=0, lt=MAX_SEED + 1)
    stop: Stops | None = Field(
        None, description="Texts that end the answer and are not shown; of a control token, the token itself."
    )
    stop_token_ids: Many[Annotated[int, Field(ge=0)]] | None = Field(
        None, max_length=MAX_STOP_TOKENS, description="Tokens that end the answer and are not shown."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
