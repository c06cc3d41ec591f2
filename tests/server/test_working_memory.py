"""A document that there is no memory for is refused before any work, with the numbers; others are served."""

from dataclasses import replace

import pytest

from server.core.served_model import ServedModel
from server.errors import TooLong
from tests.server.conftest import Serve
from tests.server.test_compression import served_model


def model(working_vectors: int | None, *, is_opt: bool = False, accumulate_summary: bool = True) -> ServedModel:
    """Segments of 4 tokens, 2 vectors each."""
    served = served_model(accumulate_summary=accumulate_summary)
    positions = replace(served.positions, max_positions=64, counts_soft_prompt=not is_opt)
    return replace(served, positions=positions, working_vectors=working_vectors)


def most_tokens(served: ServedModel) -> int:
    """How many tokens a document can have, by trying."""
    number = 1
    while number < 10_000:
        try:
            served.require_segments(served.segment_lengths(number + 1))
        except TooLong:
            break
        number += 1
    return number


@pytest.mark.parametrize("is_opt", [True, False])
@pytest.mark.parametrize("working_vectors", [None, 0, 1, 2, 7, 8, 50, 1000])
def test_what_is_told_is_what_is_taken(is_opt: bool, working_vectors: int | None) -> None:
    served = model(working_vectors, is_opt=is_opt)
    told = served.max_document_tokens
    assert most_tokens(served) == (10_000 if told is None else told)


def test_one_segments_vectors_that_stand_for_all_need_no_memory() -> None:
    served = model(0, accumulate_summary=False)
    assert (served.max_document_tokens, most_tokens(served)) == (None, 10_000)


async def test_a_document_without_memory_is_refused_before_any_work(serve: Serve) -> None:
    """A row's positions are always there: 64 vectors, so 17 segments of 16 tokens."""
    async with serve(max_sequence_tokens=64, working_bytes=1) as client:
        assert (await client.get("/info")).json()["limits"]["max_document_tokens"] == 272
        taken = await client.post("/compress", json={"token_ids": [7] * 272})
        refused = await client.post("/compress", json={"token_ids": [7] * 273})
        beside = await client.post(
            "/compress", json={"documents": [{"text": "a"}, {"token_ids": [7] * 300}, {"text": "b"}]}
        )
        grown = await client.post("/compress", json={"token_ids": [7], "parent": taken.json()["id"]})
        text = await client.post("/compress", json={"text": "word " * 3000})
        listed = await client.get("/summaries")
    assert taken.status_code == 201
    for response in (refused, beside, grown, text):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "context_length_exceeded")
        assert "working_bytes, takes" in response.json()["error"]["message"]
    assert "273 tokens in 18 segments" in refused.json()["error"]["message"]
    assert "takes 17 segments, 272 tokens" in refused.json()["error"]["message"]
    assert beside.json()["error"]["param"] == "documents.1.text"
    assert len(listed.json()["data"]) == 1


async def test_the_default_is_for_whole_documents(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.get("/info")).json()["limits"]["max_document_tokens"] == 1996
