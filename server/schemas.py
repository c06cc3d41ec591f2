"""Request and response bodies. Unknown fields are refused; limits stand here and so in the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_PARTS = 64
MAX_CONTINUATIONS = 128
MAX_STOPS = 16
MAX_METADATA = 16
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
SummaryId = Annotated[str, Field(max_length=64)]
TokenIds = list[Annotated[int, Field(ge=0)]]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class CompressRequest(Body):
    """A document as text or as token ids."""

    text: Text | None = Field(None, examples=["It was a bright cold day in April…"])
    token_ids: TokenIds | None = None
    parent: SummaryId | None = Field(None, description="Id of the summary that this text continues.")
    ttl_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TTL_SECONDS,
        description="How long to keep the summary; it never shortens an earlier promise.",
    )
    metadata: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]] | None = Field(
        None, max_length=MAX_METADATA, description="Kept with the summary, not part of its id."
    )

    @model_validator(mode="after")
    def _one_form(self) -> "CompressRequest":
        if (self.text is None) == (self.token_ids is None):
            raise ValueError("give either `text` or `token_ids`")
        return self


class Part(Body):
    """A stored summary or a text."""

    summary_id: SummaryId | None = None
    text: Text | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Part":
        if (self.summary_id is None) == (self.text is None):
            raise ValueError("a part is either a `summary_id` or a `text`")
        return self


class Conditioned(Body):
    """What a call is conditioned on: `context`, or its short form `summary_ids` and then `prompt`."""

    context: list[Part] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PARTS,
        description="Summaries and texts in order. A text before a summary is compressed in its place.",
    )
    summary_ids: list[SummaryId] = Field(default_factory=list, max_length=MAX_PARTS)
    prompt: Text | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "Conditioned":
        if self.context is None and self.prompt is None:
            raise ValueError("give `prompt`, with or without `summary_ids`, or `context`")
        if self.context is not None and (self.summary_ids or self.prompt is not None):
            raise ValueError("give either `context` or `summary_ids` and `prompt`")
        return self

    @property
    def parts(self) -> list[Part]:
        """The parts in order, whichever form they came in."""
        if self.context is not None:
            return self.context
        return [*(Part(summary_id=summary_id) for summary_id in self.summary_ids), Part(text=self.prompt)]


class GenerateRequest(Conditioned):
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="None: as many as fit, up to 128.")
    temperature: float = Field(1.0, ge=0, le=10, description="0 takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[Text, Field(min_length=1)] | list[Annotated[Text, Field(min_length=1)]] | None = Field(None)
    stream: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @model_validator(mode="after")
    def _few_stops(self) -> "GenerateRequest":
        if len(self.stops) > MAX_STOPS:
            raise ValueError(f"`stop` has {len(self.stops)} strings; the limit is {MAX_STOPS}")
        return self


class ScoreRequest(Conditioned):
    continuations: list[Annotated[Text, Field(min_length=1)]] = Field(min_length=1, max_length=MAX_CONTINUATIONS)


class CompressTimings(BaseModel):
    tokenize_seconds: float
    engine_seconds: float = Field(description="Waited for the engine, its queue included.")
    store_seconds: float = Field(description="The store, and all else after tokenising.")
    total_seconds: float


class SummaryResponse(BaseModel):
    id: str
    object: Literal["summary"] = "summary"
    model: str
    created: int
    tokens: int = Field(description="Tokens of the document, those of its parents included.")
    segments: int
    vectors: int = Field(description="Positions the summary takes in a prompt.")
    compression_ratio: float
    parent: str | None
    metadata: dict[str, str]


class CompressResponse(SummaryResponse):
    cached_segments: int = Field(description="Segments of this text that the store had already.")
    timings: CompressTimings


class StoredSummaryResponse(SummaryResponse):
    segment_tokens: list[int]
    expires_in_seconds: float | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["summary"] = "summary"
    deleted: bool = True


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens read as they are.")
    summary_vectors: int = Field(description="Positions that summaries took.")
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


class GenerateChunk(BaseModel):
    """One server-sent event of a stream; the last has a finish reason, usage and timings."""

    id: str
    object: Literal["generation.chunk"] = "generation.chunk"
    model: str
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    timings: GenerateTimings | None = None


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
