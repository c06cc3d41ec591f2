"""Request and response bodies. Unknown fields are refused; limits stand here and so in the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from server.http.schemas.receipts import Receipt

MAX_PARTS = 64
MAX_CONTINUATIONS = 128
MAX_STOPS = 16
MAX_EXPANDED = 64
MAX_NEW_TOKENS = 1_000_000
MAX_TTL_SECONDS = 10 * 365 * 86400


def _encodable(text: str) -> str:
    """JSON can carry half of a surrogate pair, which is no character and which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has an unpaired surrogate at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
SummaryId = Annotated[str, Field(max_length=64)]
TokenIds = list[Annotated[int, Field(ge=0)]]
# a union's members by name, so that an error is about the one that was meant; no identifiers, as no field is named so
A_TEXT, A_LIST_OF_TEXTS = "a text", "a list of texts"
OneOrMany = Discriminator(lambda value: A_LIST_OF_TEXTS if isinstance(value, list) else A_TEXT)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


EXAMPLE_ID = "5f2b8c1e94d07a63b1f0c4e8a9d27356e01b7c48"  # in examples, the place of a stored summary's


def example(**body: Any) -> ConfigDict:
    """For a body's OpenAPI schema: one that works, once ids of your own stand in it."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class Part(Body):
    """A stored summary or a text."""

    summary_id: SummaryId | None = None
    text: Text | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Part":
        if (self.summary_id is None) == (self.text is None):
            raise ValueError("a part is either a `summary_id` or a `text`")
        return self


class Expand(Body):
    segments: int = Field(
        ge=1,
        le=MAX_EXPANDED,
        description="How many, of all summaries together; of what was compressed of the prompt itself at most a "
        "quarter of the window.",
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
        description="Read so many vectors of each summary, the most important ones, shared out over its segments. Null "
        "is all; where those do not fit, older segments keep fewer. Refused where vectors have no order.",
    ),
]


class Conditioned(Body):
    """What a call is conditioned on: `context`, or its short form `summary_ids` and then `prompt`."""

    context: list[Part] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PARTS,
        description="Summaries and texts in order. A text before a summary is compressed in its place; "
        "one has to follow the last.",
    )
    summary_ids: list[SummaryId] = Field(default_factory=list, max_length=MAX_PARTS)
    prompt: Text | None = None
    max_vectors: MaxVectors = None
    expand: ExpandOrNot = None

    @model_validator(mode="after")
    def _one_form(self) -> "Conditioned":
        self._require_condition()
        return self

    def _require_condition(self) -> None:
        if self.context is None and self.prompt is None:
            raise ValueError("give `prompt`, with or without `summary_ids`, or `context`")
        if self.context is not None and (self.summary_ids or self.prompt is not None):
            raise ValueError("give either `context` or `summary_ids` and `prompt`")

    @property
    def parts(self) -> list[Part]:
        """The parts in order, whichever form they came in."""
        if self.context is not None:
            return self.context
        return [*(Part(summary_id=summary_id) for summary_id in self.summary_ids), Part(text=self.prompt)]


def _unless_off(top_k: int) -> int | None:
    return top_k if top_k > 0 else None


TopK = Annotated[int, Field(ge=-1), AfterValidator(_unless_off)]
Stops = Annotated[Annotated[NonEmptyText, Tag(A_TEXT)] | Annotated[list[NonEmptyText], Tag(A_LIST_OF_TEXTS)], OneOrMany]


class Sampling(Body):
    """How tokens are chosen; null is the default."""

    temperature: float | None = Field(1.0, ge=0, le=10, description="0 takes the most likely token.")
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: TopK | None = Field(None, description="Null is all, and so are vLLM's -1 and 0.")
    min_p: float | None = Field(0.0, ge=0, le=1, description="Least share of the most likely token's probability.")
    repetition_penalty: float | None = Field(
        1.0, gt=0, le=10, description="For tokens of the prompt and of the answer."
    )
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2)
    presence_penalty: float | None = Field(0.0, ge=-2, le=2)
    ignore_eos: bool | None = Field(default=False, description="Go on after the end-of-text token.")
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stops | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @model_validator(mode="after")
    def _few_stops(self) -> "Sampling":
        if len(self.stops) > MAX_STOPS:
            raise ValueError(f"`stop` has {len(self.stops)} strings; the limit is {MAX_STOPS}")
        return self


class GenerateRequest(Conditioned, Sampling):
    model_config = example(summary_ids=[EXAMPLE_ID], prompt="I looked at", max_tokens=24, seed=1)

    model: Text | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="None: as many as fit, up to 128.")
    stream: bool = False


ManyScored = Annotated[list[NonEmptyText], Field(min_length=1, max_length=MAX_CONTINUATIONS)]
Scored = Annotated[Annotated[NonEmptyText, Tag(A_TEXT)] | Annotated[ManyScored, Tag(A_LIST_OF_TEXTS)], OneOrMany]


class ScoreRequest(Conditioned):
    """`continuations` of a prompt, or in vLLM's form what follows each `text_1`: one for all, or as many."""

    model_config = example(summary_ids=[EXAMPLE_ID], prompt="I saw Mrs.", continuations=[" Stanard", " Smith"])

    model: Text | None = None
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


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens read as they are.")
    summary_vectors: int = Field(description="Positions that summaries took.")
    thinned_vectors: int = Field(description="Vectors of the summaries that were left out as less important.")
    summarised_tokens: int = Field(description="Document tokens that those stand for.")
    completion_tokens: int = Field(description="Tokens generated or scored.")
    total_tokens: int = Field(description="Positions in all: prompt tokens, vectors and completion tokens.")


class GenerateTimings(BaseModel):
    time_to_first_token_seconds: float
    total_seconds: float


class GenerateResponse(BaseModel):
    id: str
    object: Literal["generation"] = "generation"
    model: str
    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    timings: GenerateTimings
    receipt: Receipt


class GenerateChunk(BaseModel):
    """One server-sent event of a stream; the last has a finish reason, usage and timings."""

    id: str
    object: Literal["generation.chunk"] = "generation.chunk"
    model: str
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    timings: GenerateTimings | None = None
    receipt: Receipt | None = None


class Score(BaseModel):
    index: int
    logprob: float = Field(description="Sum of the token log-probabilities, natural logarithm.")
    tokens: list[str]
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


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The envelope of OpenAI's API."""

    error: ErrorDetail


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "autocompressor"
    meta: dict[str, Any]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
