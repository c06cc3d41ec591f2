"""Calls about corpora that a server has; as `calls`, each once."""

from typing import Any, Literal, Unpack

from autocompressor.calls import Call, Sampling, Stream, given, usage_of, what_is_read
from autocompressor.results import Answer, AnswerChunk, Hit, Json, Search, json_reader, read

By = Literal["bm25", "nearest", "both"]


def search(
    corpus: str,
    query: str,
    *,
    by: By | None = None,
    candidates: int | None = None,
    limit: int | None = None,
    rerank: bool = True,
    max_vectors: int | None = None,
) -> Call[Search]:
    """Find passages of a corpus that the server has: `candidates` by words, nearness or both, the best `limit` told.

    They are ordered by how likely they make the query, which `rerank=False` leaves out; `max_vectors` are read of each.
    """
    body = _searched(corpus, query, by, candidates, limit, rerank) | what_is_read(max_vectors, None)
    return Call("POST", "/search", json_reader(_search), body)


def ask(
    corpus: str,
    query: str,
    *,
    by: By | None = None,
    candidates: int | None = None,
    limit: int | None = None,
    rerank: bool = True,
    max_vectors: int | None = None,
    expand: int | None = None,
    **sampling: Unpack[Sampling],
) -> Call[Answer]:
    """Answer a question from what `search` finds; `expand` segments of it are read as text."""
    body = _searched(corpus, query, by, candidates, limit, rerank) | what_is_read(max_vectors, expand) | sampling

    def answer(data: Json) -> Answer:
        return read(Answer, data, usage=usage_of(data), search=_search(data["search"]))

    return Call("POST", "/ask", json_reader(answer), body)


def stream_answer(
    corpus: str,
    query: str,
    *,
    by: By | None = None,
    candidates: int | None = None,
    limit: int | None = None,
    rerank: bool = True,
    max_vectors: int | None = None,
    expand: int | None = None,
    **sampling: Unpack[Sampling],
) -> Stream[AnswerChunk]:
    """As `ask`, piece by piece; the first has the search and no text."""
    body = _searched(corpus, query, by, candidates, limit, rerank) | what_is_read(max_vectors, expand) | sampling

    def chunk(data: Json) -> AnswerChunk:
        usage = usage_of(data) if data.get("usage") else None
        found = _search(data["search"]) if data.get("search") else None
        return read(AnswerChunk, data, usage=usage, search=found)

    return Stream("POST", "/ask", json_reader(chunk), body | {"stream": True}, is_stream=True)


def _searched(
    corpus: str, query: str, by: By | None, candidates: int | None, limit: int | None, rerank: bool
) -> dict[str, Any]:
    named = {"corpus": corpus, "query": query, "by": by, "candidates": candidates, "limit": limit}
    return {**given(named), **({} if rerank else {"rerank": False})}


def _search(data: Json) -> Search:
    return read(Search, data, hits=tuple(read(Hit, one) for one in data["hits"]))
