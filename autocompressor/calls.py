"""Every call once: the request it makes, and how the answer is read. The clients send them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from autocompressor.results import (
    AutocompressorError,
    Chunk,
    Compressed,
    Generation,
    Json,
    Progress,
    Ranked,
    Ranking,
    Score,
    Scores,
    StoredSummary,
    Summary,
    SummaryPage,
    Usage,
    json_reader,
    read,
)

T = TypeVar("T")

OnProgress = Callable[[Progress], None]
SAFETENSORS = "application/octet-stream"


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how a T is read from the answer's body, or with `is_stream` from each of its events."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: Mapping[str, Any] | bytes | None = None
    query: Mapping[str, str | int] | None = None
    on_progress: OnProgress | None = None
    is_stream: bool = False


class Stream(Call[T]):
    """A call whose answer is many T, one an event."""


class Sampling(TypedDict, total=False):
    """How tokens are drawn; what is left out is the server's default."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    ignore_eos: bool
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None


def compress(
    text: str | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    token_ids: Sequence[int] | None = None,
    parent: str | None = None,
    ttl_seconds: float | None = None,
    metadata: Mapping[str, str] | None = None,
    keep_text: bool = False,
    measure: bool = False,
    parse_special: bool = False,
    progress: OnProgress | None = None,
) -> Call[Compressed]:
    """Compress a document, given as one of `text`, `file` (UTF-8) or `token_ids`, and store its summary.

    A document that is stored is found, not computed again. `parent` is the summary that it continues; `keep_text`
    stores its tokens too, for `expand`; `measure` has the answer's `retention` say what its vectors keep;
    `parse_special` has the texts of control tokens stand for these; `progress` hears of every segment.
    """
    if file is not None:
        if text is not None:
            raise ValueError("give either `text` or `file`")
        text = Path(file).read_bytes().decode()
    body = {
        "text": text,
        "token_ids": token_ids,
        "parent": parent,
        "ttl_seconds": ttl_seconds,
        "metadata": metadata,
        "keep_text": keep_text or None,
        "measure": measure or None,
        "parse_special": parse_special or None,
    }
    return _compression("/compress", body, progress)


def append(
    summary_id: str,
    text: str,
    *,
    ttl_seconds: float | None = None,
    metadata: Mapping[str, str] | None = None,
    keep_text: bool = False,
    measure: bool = False,
    parse_special: bool = False,
    progress: OnProgress | None = None,
) -> Call[Compressed]:
    """Compress a text that continues a stored document; the new summary stands for both."""
    body = {
        "text": text,
        "ttl_seconds": ttl_seconds,
        "metadata": metadata,
        "keep_text": keep_text or None,
        "measure": measure or None,
        "parse_special": parse_special or None,
    }
    return _compression(f"{_path(summary_id)}/append", body, progress)


def generate(
    prompt: str | None = None,
    *,
    summary_ids: Sequence[str] = (),
    context: Sequence[Mapping[str, str]] | None = None,
    max_vectors: int | None = None,
    expand: int | None = None,
    **sampling: Unpack[Sampling],
) -> Call[Generation]:
    """Continue a prompt after stored summaries; `context` mixes both: `{"summary_id": …}` and `{"text": …}`.

    `max_vectors` are read of each summary, the most important ones; `expand` is how many segments, those that the
    prompt speaks of most, are read as their text, which `keep_text` kept.
    """
    body = _conditioned(prompt, summary_ids, context) | what_is_read(max_vectors, expand) | sampling
    return Call("POST", "/generate", json_reader(lambda data: read(Generation, data, usage=usage_of(data))), body)


def stream(
    prompt: str | None = None,
    *,
    summary_ids: Sequence[str] = (),
    context: Sequence[Mapping[str, str]] | None = None,
    max_vectors: int | None = None,
    expand: int | None = None,
    **sampling: Unpack[Sampling],
) -> Stream[Chunk]:
    """As `generate`, piece by piece."""
    body = _conditioned(prompt, summary_ids, context) | what_is_read(max_vectors, expand) | sampling | {"stream": True}

    def chunk(data: Json) -> Chunk:
        return read(Chunk, data, usage=usage_of(data) if data.get("usage") else None)

    return Stream("POST", "/generate", json_reader(chunk), body, is_stream=True)


def score(
    continuations: Sequence[str],
    *,
    prompt: str | None = None,
    summary_ids: Sequence[str] = (),
    context: Sequence[Mapping[str, str]] | None = None,
    max_vectors: int | None = None,
    expand: int | None = None,
) -> Call[Scores]:
    """Log-probabilities of continuations of a prompt, after stored summaries, which are read as `generate` reads."""
    conditions = _conditioned(prompt, summary_ids, context) | what_is_read(max_vectors, expand)
    body = conditions | {"continuations": _listed("continuations", continuations)}

    def scores(data: Json) -> Scores:
        return read(Scores, data, scores=tuple(read(Score, one) for one in data["scores"]), usage=usage_of(data))

    return Call("POST", "/score", json_reader(scores), body)


def rerank(
    query: str,
    documents: Sequence[str | Mapping[str, str]],
    *,
    top_n: int | None = None,
    return_documents: bool = False,
    max_vectors: int | None = None,
) -> Call[Ranking]:
    """Order documents, texts or `{"summary_id": …}`, by how likely they make the query.

    `max_vectors` are read of each, the most important ones.
    """
    listed = _listed("documents", documents)
    body = {
        "query": query,
        "documents": listed,
        "top_n": top_n,
        "return_documents": return_documents or None,
        "max_vectors": max_vectors,
    }

    def ranking(data: Json) -> Ranking:
        return read(Ranking, data, results=tuple(read(Ranked, one) for one in data["results"]))

    return Call("POST", "/rerank", json_reader(ranking), given(body))


def list_summaries(*, limit: int = 50, after: str | None = None) -> Call[SummaryPage]:
    """A page of the stored summaries, newest first; `after` is the last id of the page before."""

    def page(data: Json) -> SummaryPage:
        return read(SummaryPage, data, data=tuple(read(Summary, one) for one in data["data"]))

    return Call("GET", "/summaries", json_reader(page), query=given({"limit": limit, "after": after}))


def get_summary(summary_id: str) -> Call[StoredSummary]:
    """Describe a stored summary."""
    return Call("GET", _path(summary_id), json_reader(lambda data: read(StoredSummary, data)))


def delete_summary(summary_id: str) -> Call[None]:
    """Delete a summary; segments that others share stay."""
    return Call("DELETE", _path(summary_id), json_reader(lambda _: None))


def export_summary(summary_id: str, *, format: Literal["safetensors", "prompt_embeds"] = "safetensors") -> Call[bytes]:  # noqa: A002
    """The vectors as a file, which `import_summary` takes, or in the form that vLLM takes as `prompt_embeds`."""
    return Call("GET", _path(summary_id), bytes, query={"format": format})


def import_summary(summary_id: str, data: bytes, *, ttl_seconds: float | None = None) -> Call[Summary]:
    """Store an exported summary; the server checks that it is one of its model and of this id."""
    reader = json_reader(lambda answer: read(Summary, answer))
    return Call("PUT", _path(summary_id), reader, data, query=given({"ttl_seconds": ttl_seconds}))


def info() -> Call[Json]:
    """The server's limits and settings."""
    return Call("GET", "/info", json_reader(lambda data: data))


def _compression(path: str, body: Json, progress: OnProgress | None) -> Call[Compressed]:
    streamed = {"stream": True} if progress else {}
    reader = json_reader(lambda data: read(Compressed, data))
    return Call("POST", path, reader, given(body) | streamed, on_progress=progress, is_stream=progress is not None)


def _conditioned(
    prompt: str | None, summary_ids: Sequence[str], context: Sequence[Mapping[str, str]] | None
) -> dict[str, Any]:
    listed = _listed("summary_ids", summary_ids)
    return given({"prompt": prompt, "summary_ids": listed or None, "context": context})


def what_is_read(max_vectors: int | None, expand: int | None) -> dict[str, Any]:
    """What is read of summaries."""
    return given({"max_vectors": max_vectors, "expand": None if expand is None else {"segments": expand}})


def _listed(name: str, values: Sequence[T]) -> list[T]:
    """The values as a list; one text, which is a sequence of its characters, is refused."""
    if isinstance(values, str):
        raise TypeError(f"`{name}` takes several; give [{values[:40]!r}] for one")
    return list(values)


def given(body: Json) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _path(summary_id: str) -> str:
    if not summary_id:
        raise AutocompressorError("a summary's id is empty", code="invalid_request", param="summary_id")
    return f"/summaries/{quote(summary_id, safe='')}"


def usage_of(data: Json) -> Usage:
    return read(Usage, data["usage"])
