"""Corpora: indexes of what bulk compression made, searched and asked over a real engine."""

import json
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.bm25 import Passages
from server.bulk.indexing import Wanted, build
from server.core import searching
from server.core.build import open_core
from server.core.corpora import nearest
from server.core.corpora.corpus import Corpus
from server.core.corpora.nearest import Nearest
from server.core.corpora.passages import Passage
from server.settings import Settings
from tests.server.conftest import Serve
from tests.server.corpora import SHIPS, TEXTS, compressed, indexed
from tests.tiny import tiny_anchored

pytest.importorskip("pyarrow", reason="the extra search is not installed")
EXACT = {"dtype": "bfloat16"}  # as parts and indexes keep vectors, so that what the store has is the same to the bit
QUERY = "Who saw the frigate or the ketch?"


@pytest.fixture
async def index(serve: Serve, tmp_path: Path) -> Path:
    async with serve(**EXACT) as client:
        return await indexed(client.core, tmp_path)  # type: ignore[attr-defined]


@pytest.fixture
def library(serve: Serve, index: Path) -> Any:
    """Opens a server that has the index, under settings."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with serve(**(EXACT | {"corpora": f"library={index}"} | settings)) as client:
            yield client

    return opened


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json={"corpus": "library", "query": QUERY, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_every_passage_comes_back_as_it_was(serve: Serve, tmp_path: Path) -> None:
    async with serve(**EXACT) as client:
        parts = await compressed(client.core, tmp_path)  # type: ignore[attr-defined]
        build([str(parts)], tmp_path / "index", Wanted())
        corpus = Corpus.open("library", tmp_path / "index")
        assert corpus.manifest.num_passages == len(TEXTS)
        passages = corpus.read(range(len(TEXTS)))
        assert [each.text for each in passages] == TEXTS
        assert [each.source_id for each in passages] == [f"p{n}" for n in range(len(TEXTS))]
        assert all(each.metadata == {"shelf": "A"} for each in passages)
        made = [(await client.post("/compress", json={"text": text})).json() for text in TEXTS]
        assert [each.id for each in passages] == [each["id"] for each in made]
        summaries = client.services.summaries.of(client.core.tenant)  # type: ignore[attr-defined]
        for passage in passages:
            stored = await summaries.vectors(await summaries.get(passage.id, param="id"))
            assert torch.equal(passage.vectors, stored)
        assert [number for number, _ in corpus.by_words(QUERY, 3)] == Passages(TEXTS).best(QUERY, 3)


async def test_int8_has_half_the_bytes_and_nearly_the_vectors(serve: Serve, tmp_path: Path) -> None:
    async with serve(**EXACT) as client:
        parts = await compressed(client.core, tmp_path)  # type: ignore[attr-defined]
    opened = []
    for kept in ("bfloat16", "int8"):
        build([str(parts)], tmp_path / kept, Wanted(vectors=kept))  # type: ignore[arg-type]
        opened.append(Corpus.open("library", tmp_path / kept))
    wide, narrow = opened
    assert narrow.manifest.sizes["vectors"] * 2 == wide.manifest.sizes["vectors"]
    assert narrow.manifest.digest != wide.manifest.digest
    for one, other in zip(wide.read([0, 9]), narrow.read([0, 9]), strict=True):
        assert not torch.equal(one.vectors, other.vectors)
        assert torch.linalg.vector_norm((one.vectors - other.vectors).float()) < 0.01 * torch.linalg.vector_norm(
            one.vectors.float()
        )


async def test_a_search_is_bm25_and_then_what_rerank_says_of_the_same_ids(library: Any) -> None:
    async with library() as client:
        found = await post(client, "/search", rerank=False)
        best = Passages(TEXTS).best(QUERY, 5)
        assert [hit["source_id"] for hit in found["hits"]] == [f"p{number}" for number in best]
        assert all(hit["relevance_score"] is None and hit["bm25"] > 0 for hit in found["hits"])
        assert found["usage"]["total_tokens"] == 0

        for text in TEXTS:
            await client.post("/compress", json={"text": text})
        ranked = await post(client, "/search", limit=10)
        ids = [hit["summary_id"] for hit in ranked["hits"]]
        alone = await client.post(
            "/rerank", json={"query": QUERY, "documents": [{"summary_id": each} for each in reversed(ids)]}
        )
        assert alone.status_code == 200, alone.text
        scores = {ids[::-1][each["index"]]: each["relevance_score"] for each in alone.json()["results"]}
        assert [hit["relevance_score"] for hit in ranked["hits"]] == sorted(scores.values(), reverse=True)
        assert all(hit["relevance_score"] == scores[hit["summary_id"]] for hit in ranked["hits"])
        assert ranked["usage"] == alone.json()["usage"]


@pytest.mark.parametrize("num_expanded", [0, 2])
async def test_an_answer_is_generate_s_after_the_same_summaries(library: Any, num_expanded: int) -> None:
    async with library() as client:
        sampled = {
            "max_tokens": 8,
            "temperature": 0,
            **({"expand": {"segments": num_expanded}} if num_expanded else {}),
        }
        asked = await post(client, "/ask", limit=3, **sampled)
        ids = [hit["summary_id"] for hit in asked["search"]["hits"]]
        assert [hit["summary_id"] for hit in (await post(client, "/search", limit=3))["hits"]] == ids
        for text in TEXTS:
            await client.post("/compress", json={"text": text, "keep_text": True})
        alone = await client.post("/generate", json={"summary_ids": ids[::-1], "prompt": QUERY, **sampled})
        assert asked["text"] == alone.json()["text"]
        assert asked["usage"] == alone.json()["usage"]
        assert len(asked["receipt"]["expanded"]) == num_expanded

        response = await client.post(
            "/ask", json={"corpus": "library", "query": QUERY, "limit": 3, "stream": True, **sampled}
        )
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        first, *chunks = map(json.loads, events[:-1])
        assert [hit["summary_id"] for hit in first["search"]["hits"]] == ids
        assert "".join(chunk["text"] for chunk in chunks) == asked["text"]
        assert chunks[-1]["usage"] == asked["usage"]


async def test_nothing_is_stored_and_every_caller_may_search(library: Any) -> None:
    async with library() as client:
        for caller in ({}, {"Authorization": "Bearer another"}):
            client.headers.update(caller)
            asked = await post(client, "/ask", limit=2, max_tokens=2)
            (one, other) = asked["search"]["hits"]
            assert (await client.get("/summaries")).json()["data"] == []
            for call in (client.get, client.delete):  # nobody has it, so nobody can take it from others
                assert (await call(f"/summaries/{one['summary_id']}")).status_code == 404
            assert (await post(client, "/search", limit=2))["hits"] == [one, other]


async def test_vectors_with_an_order_are_thinned(serve: Serve, tmp_path: Path) -> None:
    tiny_anchored().save_pretrained(tmp_path / "anchored")
    settings = {**EXACT, "model": str(tmp_path / "anchored")}
    async with serve(**settings) as client:
        index = await indexed(client.core, tmp_path)  # type: ignore[attr-defined]
        made = [(await client.post("/compress", json={"text": text})).json()["id"] for text in TEXTS]
    async with serve(**settings, corpora=f"library={index}") as client:
        ranked = await post(client, "/search", max_vectors=3, limit=10)
        documents = [{"summary_id": each} for each in made]
        alone = await client.post("/rerank", json={"query": QUERY, "documents": documents, "max_vectors": 3})
        scores = {made[each["index"]]: each["relevance_score"] for each in alone.json()["results"]}
        assert {hit["summary_id"]: hit["relevance_score"] for hit in ranked["hits"]} == scores
        assert ranked["usage"]["thinned_vectors"] > 0


async def test_the_nearest_are_found_and_both_orders_are_fused(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra search is not installed")
    async with serve(**EXACT) as client:
        index = await indexed(client.core, tmp_path, Wanted(nearest="Flat"))  # type: ignore[attr-defined]
    assert not list(tmp_path.rglob("means.npy"))
    async with serve(**EXACT, corpora=f"library={index}") as client:
        for number in (2, 7):
            (hit,) = (await post(client, "/search", query=TEXTS[number], by="nearest", limit=1, rerank=False))["hits"]
            assert (hit["source_id"], hit["bm25"]) == (f"p{number}", None)
            assert hit["distance"] == pytest.approx(0, abs=0.05)  # it is compressed as the passage was
        asked = {"query": f"{TEXTS[4]} yawl", "rerank": False, "candidates": 4, "limit": 4}
        words = await post(client, "/search", by="bm25", **asked)
        near = await post(client, "/search", by="nearest", **asked)
        both = await post(client, "/search", by="both", **asked)
        expected: dict[str, float] = {}
        for found in (words, near):
            for rank, hit in enumerate(found["hits"], start=1):
                expected[hit["source_id"]] = expected.get(hit["source_id"], 0) + 1 / (60 + rank)
        assert [hit["fused"] for hit in both["hits"]] == pytest.approx(sorted(expected.values(), reverse=True)[:4])
        assert all(hit["fused"] == pytest.approx(expected[hit["source_id"]]) for hit in both["hits"])


def test_what_is_nearest_and_what_faiss_cannot_make(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra search is not installed")
    means = torch.randn(20, 16).numpy()
    assert Nearest.made(means, "Flat").matches(torch.tensor(means[3]), 30)[0] == (3, 0)
    cells = Nearest.made(torch.randn(200, 16).numpy(), "IVF4,Flat")
    cells.save(tmp_path / "cells")
    opened = Nearest.open(tmp_path / "cells", 200, 16)
    assert len(opened.matches(torch.zeros(16), 200)) == 200  # looks at all four cells
    for num_passages, width in ((199, 16), (200, 8)):
        with pytest.raises(ValueError, match=f"200 passages and 16 numbers each, not {num_passages} and {width}"):
            Nearest.open(tmp_path / "cells", num_passages, width)
    for factory in ("Nonsense", "PQ5"):
        with pytest.raises(ValueError, match=f"faiss makes no '{factory}' of 20 passages"):
            Nearest.made(means, factory)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF4,Flat"])
def test_means_stay_on_the_disk(tmp_path: Path, factory: str) -> None:
    """All but cells were read into memory at the start, 1.5 GB of a million passages of 384 numbers."""
    pytest.importorskip("faiss", reason="the extra search is not installed")
    path = tmp_path / "nearest.faiss"
    Nearest.made(torch.randn(200, 16).numpy(), factory).save(path)
    opened = Nearest.open(path, 200, 16)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert len(opened.matches(torch.zeros(16), 3)) == 3


def test_cells_are_learnt_from_the_whole_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of less than twice what is learnt from, the beginning alone was looked at."""
    pytest.importorskip("faiss", reason="the extra search is not installed")
    monkeypatch.setattr(nearest, "TRAINING_PASSAGES", 100)
    means = torch.randn(190, 4)
    means[100:] += 100  # another source
    made = Nearest.made(means.numpy(), "IVF2,Flat")
    centres = made._index.quantizer.reconstruct_n(0, 2)
    assert sorted(round(abs(centre), -2) for centre in centres[:, 0].tolist()) == [0, 100]


BAD = [
    ("/search", {"corpus": "other"}, 404, "corpus", "there is no corpus 'other'; served: 'library'"),
    ("/search", {"query": ""}, 422, "query", ""),
    ("/search", {"candidates": 3, "limit": 4}, 422, "limit", "`limit` is 4, more than the 3 `candidates`"),
    ("/search", {"candidates": 1001}, 422, "candidates", "1000"),
    ("/search", {"by": "nearest"}, 400, "by", "`autocompressor index --nearest`"),
    ("/search", {"by": "near"}, 422, "by", ""),
    ("/search", {"query": TEXTS[3] * 40}, 413, "query", ""),
    ("/search", {"model": "other"}, 404, "model", "there is no model 'other'"),
    ("/search", {"max_vectors": 3}, 400, "max_vectors", "no order of importance"),
    ("/search", {"max_vectors": 3, "rerank": False}, 422, "max_vectors", "`max_vectors` is 3, and without `rerank`"),
    ("/ask", {"corpus": ""}, 404, "corpus", ""),
    ("/ask", {"query": "zebra"}, 400, "query", "that share a word with the query"),
    ("/ask", {"limit": 10, "max_tokens": 500}, 413, "max_tokens", ""),
    ("/ask", {"summary_ids": ["a"]}, 422, "summary_ids", ""),
]


async def test_bad_requests(library: Any) -> None:
    async with library() as client:
        for path, body, status, param, message in BAD:
            response = await client.post(path, json={"corpus": "library", "query": QUERY, **body})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (status, param), response.text
            assert message in error["message"]


async def test_few_passages_are_in_memory_at_a_time(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand candidates the vectors of all were, for each request."""
    async with library() as client:
        whole = await post(client, "/search", limit=4)
        read, counts = Corpus.read, list[int]()

        def counted(self: Corpus, numbers: Sequence[int]) -> list[Passage]:
            counts.append(len(numbers))
            return read(self, numbers)

        monkeypatch.setattr(Corpus, "read", counted)
        monkeypatch.setattr(searching, "READ_TOGETHER", 3)
        parts = await post(client, "/search", limit=4)
        assert counts == [3, 3, 3, 1]
        assert (parts["hits"], parts["usage"]) == (whole["hits"], whole["usage"])
        assert parts["receipt"]["prefill_tokens_saved"] == whole["receipt"]["prefill_tokens_saved"]


async def test_a_passage_that_is_damaged_is_told(serve: Serve, index: Path) -> None:
    records = index / "records.jsonl"
    records.write_bytes(b" " * records.stat().st_size)
    async with serve(**EXACT, corpora=f"library={index}") as client:
        failed = await client.post("/search", json={"corpus": "library", "query": QUERY})
        assert failed.status_code == 500
        assert failed.json()["error"]["message"] == "a passage of the corpus 'library' is damaged: make the index again"


async def test_a_query_that_shares_no_word_finds_nothing(library: Any) -> None:
    async with library() as client:
        found = await post(client, "/search", query="zebra")
        assert (found["hits"], found["candidates"]) == ([], 0)
        assert (await client.get("/info")).json()["corpora"] == [
            {"id": "library", "model": "tiny", "passages": 10, "vectors": "bfloat16", "nearest": None}
        ]
        assert len(SHIPS) == 10


async def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with open_core(Settings(**settings)):
            pass
    return str(caught.value)


async def test_an_index_of_another_model_or_a_broken_one_ends_the_start(
    checkpoint: Path, index: Path, tmp_path: Path
) -> None:
    own = {"model": str(checkpoint), "dtype": "float32", "store": f"sqlite:{tmp_path}/other.sqlite3"}
    tiny_anchored().save_pretrained(tmp_path / "anchored")
    told = await refused({**own, "model": str(tmp_path / "anchored"), "corpora": f"library={index}"})
    assert told.startswith("the corpus 'library' is of model ")
    assert "(anchored)" in told
    # told before a model is loaded, which may take minutes
    assert "there is no folder" in await refused(
        {**own, "model": "/no/checkpoint", "corpora": f"library={tmp_path}/absent"}
    )
    assert "no index that `autocompressor index` finished" in await refused({**own, "corpora": f"a={tmp_path}"})
    manifest = json.loads((index / "corpus.json").read_text())
    for wrong in ({"sizes": []}, {"num_passages": "10"}, {"more": 1}):
        shutil.copytree(index, tmp_path / "wrong")
        (tmp_path / "wrong" / "corpus.json").write_text(json.dumps(manifest | wrong))
        assert "no index that" in await refused({**own, "corpora": f"library={tmp_path}/wrong"})
        shutil.rmtree(tmp_path / "wrong")
    for name in ("words/data.csc.index.npy", "places.npy"):
        shutil.copytree(index, tmp_path / "zeros")
        file = tmp_path / "zeros" / name
        file.write_bytes(bytes(file.stat().st_size))
        assert f"{tmp_path}/zeros' is damaged: make it again" in await refused(
            {**own, "corpora": f"library={tmp_path}/zeros"}
        )
        shutil.rmtree(tmp_path / "zeros")
    for name in ("vectors", "places.npy", "words/data.csc.index.npy"):
        broken = tmp_path / "broken"
        shutil.copytree(index, broken)
        file = broken / name
        file.write_bytes(file.read_bytes()[:-1])
        assert "make it again" in await refused({**own, "corpora": f"library={broken}"})
        file.unlink()
        assert "is missing" in await refused({**own, "corpora": f"library={broken}"})
        shutil.rmtree(broken)
    assert [name for name, _ in Settings(corpora="., kept/a, b=kept").corpus_folders] == [Path.cwd().name, "a", "b"]
    assert "to 2 indexes" in await refused({**own, "corpora": f"a={index},a={tmp_path}"})


async def test_what_cannot_be_indexed_is_told(serve: Serve, tmp_path: Path) -> None:
    async with serve(**EXACT) as client:
        core = client.core  # type: ignore[attr-defined]
        parts = await compressed(core, tmp_path)
        (tmp_path / "bare").mkdir()
        bare = await compressed(core, tmp_path / "bare", TEXTS[:2], keep_text=False)
    output = tmp_path / "index"
    with pytest.raises(ValueError, match="run `autocompressor bulk` with --keep-text"):
        build([str(bare)], output, Wanted())
    with pytest.raises(ValueError, match="comes 2 times"):
        build([str(parts), f"{parts}/../vectors"], output, Wanted())
    with pytest.raises(ValueError, match="is there already"):
        build([str(parts)], parts, Wanted())
    first = sorted(parts.glob("*.parquet"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b"galleon", b"gallego").replace(b"dinghy", b"dinghi"))
    with pytest.raises(ValueError, match="is damaged: run bulk again"):
        build([str(parts)], output, Wanted())
    first.write_bytes(whole)
    (parts / "rejected.jsonl").unlink()
    with pytest.raises(ValueError, match="or the run has not ended"):
        build([str(parts)], output, Wanted())
    assert not output.exists()


async def test_one_input_by_two_models_is_told_as_that(serve: Serve, tmp_path: Path) -> None:
    """It was said that a part comes twice, as parts are named by their input."""
    async with serve(**EXACT) as client:
        one = (await compressed(client.core, tmp_path)).rename(tmp_path / "one")  # type: ignore[attr-defined]
    tiny_anchored().save_pretrained(tmp_path / "anchored")
    async with serve(**EXACT, model=str(tmp_path / "anchored")) as client:
        other = await compressed(client.core, tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="an index is of one model"):
        build([str(one), str(other)], tmp_path / "index", Wanted())
