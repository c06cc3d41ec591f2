"""Documents in, summaries out."""

from typing import Annotated, Literal, Protocol

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from server.http.schemas.base import Body, Many, ModelName, Parameters, ParseSpecial, SummaryId, Text, TokenIds, example
from server.http.schemas.receipts import Receipt
from server.limits import (
    MAX_DOCUMENTS,
    MAX_LISTED,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_VALUE,
    MAX_SEGMENTS,
    MAX_TTL_SECONDS,
)

Metadata = Annotated[
    dict[
        Annotated[Text, Field(max_length=MAX_METADATA_NAME)],
        Annotated[Text, Field(max_length=MAX_METADATA_VALUE)],
    ],
    Field(max_length=MAX_METADATA),
]


class Wanted(Protocol):
    """What all bodies with documents say of them."""

    ttl_seconds: float | None
    keep_text: bool
    measure: bool
    parse_special: bool


class Named(Body):
    model: ModelName = None


class Kept(Body):
    ttl_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TTL_SECONDS,
        description="How long to keep the summary; it never shortens an earlier promise.",
    )
    metadata: Metadata | None = Field(
        None,
        description="Kept with the summary, not part of its id; added to what the same caller gave an equal document.",
    )
    keep_text: bool = Field(
        default=False,
        description="Store the document's tokens too, to be deleted with its vectors, so that `expand` can read them.",
    )


class Read(Body):
    parse_special: ParseSpecial = False
    measure: bool = Field(
        default=False,
        description="Measure what vectors keep of this text, without its parents: `retention`. It runs up to some "
        "4,700 positions, in addition to what is compressed.",
    )


class DocumentBody(Kept, Read):
    """A document as text or as token ids."""

    text: Text | None = None
    token_ids: TokenIds | None = None
    parent: SummaryId | None = Field(None, description="Id of the summary that this text continues.")

    @model_validator(mode="after")
    def _one_form(self) -> "DocumentBody":
        if (self.text is None) == (self.token_ids is None):
            raise ValueError("give either `text` or `token_ids`")
        return self


class CompressRequest(DocumentBody, Named):
    """A document as text or as token ids, or several `documents`."""

    model_config = example(text="The lighthouse keeper wrote one line a day.", metadata={"source": "diary"})

    documents: Many[DocumentBody] | None = Field(None, min_length=1, max_length=MAX_DOCUMENTS)
    stream: bool = Field(default=False, description="Server-sent events of progress, then the answer and [DONE].")

    @model_validator(mode="after")
    def _one_form(self) -> "CompressRequest":
        given = [name for name in ("text", "token_ids", "documents") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give either `text` or `token_ids` or `documents`")
        if self.documents is not None and (self.parent is not None or self.metadata is not None):
            raise ValueError("with `documents`, `parent` and `metadata` stand in each of them")
        return self


class AppendRequest(Kept, Read, Named):
    model_config = example(text=" On the third day the lamp went out.")

    text: Text
    stream: bool = Field(default=False, description="Server-sent events of progress, then the answer and [DONE].")


class Upload(BaseModel):
    """The fields of a form with files; all but `metadata` are said for each of them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    file: Many[UploadFile] = Field(
        min_length=1, max_length=MAX_DOCUMENTS, description="UTF-8 text; several are answered as a list."
    )
    model: ModelName = None
    ttl_seconds: float | None = Field(None, gt=0, le=MAX_TTL_SECONDS)
    parent: SummaryId | None = Field(None, description="Id of the summary that a single file continues.")
    metadata: Many[Json[Metadata]] | None = Field(
        None, max_length=MAX_DOCUMENTS, description="JSON objects kept with the summaries, one for each file, in order."
    )
    keep_text: bool = False
    measure: bool = False
    parse_special: ParseSpecial = False
    stream: bool = False


class ListParameters(Parameters):
    limit: int = Field(50, ge=1, le=MAX_LISTED)
    after: str | None = Field(None, description="The last id of the page before.")


class GetParameters(Parameters):
    format: Literal["json", "safetensors", "prompt_embeds"] = "json"


class PutParameters(Parameters):
    ttl_seconds: float | None = Field(None, gt=0, le=MAX_TTL_SECONDS)


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
    has_text: bool = Field(description="Whether the document's tokens are stored too, so that `expand` can read them.")
    metadata: dict[str, str]


class Retention(BaseModel):
    """Losses of a text's own last tokens, mean nats a token, by what is read before them."""

    scored_tokens: int = Field(description="How many: a quarter of the text, at most 192.")
    context_tokens: int = Field(description="Those before them, at most 2,048.")
    none: float = Field(description="After one token.")
    summary: float = Field(description="After the context as vectors, which know nothing of the scored tokens.")
    full: float = Field(description="After the context as text.")
    share: float | None = Field(description="(none - summary) / (none - full); null where the text in full is no help.")


class CompressResponse(SummaryResponse):
    retention: Retention | None = Field(
        None, description="Where `measure` asked for it and the text has 64 tokens or more."
    )
    cached_segments: int = Field(description="Segments of this text that the store had already.")
    timings: CompressTimings
    receipt: Receipt


class CompressedList(BaseModel):
    """In the order of the documents."""

    object: Literal["list"] = "list"
    data: list[CompressResponse]


class SegmentsProgress(BaseModel):
    done: int
    total: int
    cached: int


class CompressProgress(BaseModel):
    """One server-sent event; `tokens` of the segments that are done, and the `vectors` that stand for them."""

    object: Literal["compress.progress"] = "compress.progress"
    segments: SegmentsProgress
    tokens: int
    vectors: int
    elapsed_seconds: float


class SegmentsParameters(Parameters):
    limit: int = Field(20, ge=1, le=MAX_SEGMENTS)
    after: int | None = Field(None, ge=0, description="The number of the last segment of the page before.")


class SegmentResponse(BaseModel):
    segment: int = Field(description="Its place in the document, from 0.")
    tokens: int
    vectors: int
    anchors: list[int] | None = Field(
        description="The places of the tokens that its vectors stand at; null where vectors have no such places."
    )
    ranks: list[int] | None = Field(
        description="Of each vector, its rank in importance, from 0; null where vectors have no order."
    )
    pieces: list[str] | None = Field(description="The text of each token, which `keep_text` kept; null where not.")


class SegmentList(BaseModel):
    object: Literal["list"] = "list"
    data: list[SegmentResponse]
    has_more: bool


class StoredSummaryResponse(SummaryResponse):
    segment_tokens: list[int]
    expires_in_seconds: float | None


class SummaryList(BaseModel):
    """Newest first; where there are more, ask for those after the last one's id."""

    object: Literal["list"] = "list"
    data: list[SummaryResponse]
    has_more: bool


class DeletedResponse(BaseModel):
    id: str
    object: Literal["summary"] = "summary"
    deleted: bool = True
