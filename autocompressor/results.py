"""What calls return, and the one error they raise. Fields the client does not know are left out, not refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")

Json = Mapping[str, Any]


class AutocompressorError(Exception):
    """A call that failed.

    Attributes:
        status: of the answer; None where there was none, or where a stream broke off.
        code: the server's word for it, `summary_not_found`; of the client itself `unreachable`, `timeout`,
            `bad_answer`.
        param: the field of the request that is at fault, where one is.
    """

    def __init__(self, message: str, *, code: str, status: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A document in the server's store; `tokens` are those of its parents too. `has_text`: it can be expanded."""

    id: str
    model: str
    created: int
    tokens: int
    segments: int
    vectors: int
    compression_ratio: float
    parent: str | None = None
    has_text: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Compressed(Summary):
    """A summary just made; `cached_segments` of its text were stored before.

    `retention`: where it was measured, losses in nats a token after nothing (`none`), vectors and the full text, and
    the `share` of the text's gain that vectors keep.
    """

    cached_segments: int
    retention: Json | None = None
    timings: Json = field(default_factory=dict)
    receipt: Json | None = None

    @property
    def was_stored(self) -> bool:
        """Nothing was computed for it."""
        return self.timings.get("engine_seconds") == 0


@dataclass(frozen=True, kw_only=True)
class StoredSummary(Summary):
    """A summary as it is in the store; `expires_in_seconds` is None for one that stays."""

    segment_tokens: tuple[int, ...]
    expires_in_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class SummaryPage:
    """Some of the stored summaries, newest first; where there are more, ask for those after the last one's id."""

    data: tuple[Summary, ...]
    has_more: bool


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a document is compressed."""

    segments_done: int
    segments_total: int
    segments_cached: int
    tokens: int
    vectors: int
    elapsed_seconds: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Positions a call took; `summarised_tokens` are document tokens that its summary vectors stand for.

    `thinned_vectors` are those of the summaries that were left out as less important.
    """

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    summary_vectors: int = 0
    thinned_vectors: int = 0
    summarised_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Generation:
    id: str
    model: str
    text: str
    finish_reason: str
    usage: Usage
    timings: Json = field(default_factory=dict)
    receipt: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a generation's text; the last has a finish reason and usage."""

    id: str
    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    receipt: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One continuation; `logprob` is the sum of its tokens' natural log-probabilities."""

    index: int
    logprob: float
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """In the order of the continuations."""

    model: str
    scores: tuple[Score, ...]
    usage: Usage
    receipt: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A document by its place in the request.

    `summary_id` may stand for it the next time; None of a compacted conversation that has no single one.
    """

    index: int
    relevance_score: float
    summary_id: str | None
    document: Any = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The best document first."""

    id: str
    model: str
    results: tuple[Ranked, ...]
    usage: Json = field(default_factory=dict)
    receipt: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A passage of a corpus; of the scores those are None by which it was not found.

    `relevance_score`: log p(query | its summary), None where it was not reranked.
    """

    summary_id: str
    source_id: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    bm25: float | None = None
    distance: float | None = None
    fused: float | None = None
    relevance_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """The best hit first; `candidates` is how many passages were found."""

    id: str
    model: str
    corpus: str
    candidates: int
    hits: tuple[Hit, ...]
    usage: Json = field(default_factory=dict)
    receipt: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Answer(Generation):
    """An answer from a corpus, and the search that it stands on."""

    search: Search


@dataclass(frozen=True, kw_only=True)
class AnswerChunk(Chunk):
    """A piece of an answer's text; the first has no text and the search."""

    search: Search | None = None


def read(kind: type[T], answer: Json, /, **parsed: Any) -> T:
    """An object of a dataclass from JSON: `parsed` where given, else the fields of the same name, lists as tuples.

    Raises:
        TypeError: a field is missing.
    """
    names = {one.name for one in fields(kind)} - parsed.keys()  # type: ignore[arg-type]  # a dataclass, always
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in answer.items() if name in names
    }
    return kind(**given, **parsed)


def json_reader(reader: Callable[[Any], T]) -> Callable[[bytes], T]:
    """Reads a T from JSON; what does not fit is no answer of this server, an AutocompressorError."""

    def parsed(body: bytes) -> T:
        try:
            return reader(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"the answer is not what an autocompressor server gives: {body[:80]!r}"
            raise AutocompressorError(message, code="bad_answer") from error

    return parsed
