"""Segments read as their text again: the right ones, in their place, and gone when their summary is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.bm25 import Passages
from server.core.prompts.expansion import Expander
from server.core.tenant import Tenant
from server.engine.protocol import Prompt, SamplingParams
from server.errors import InvalidRequest
from server.store import EmbeddedStore
from tests.server.conftest import Serve
from tests.server.test_alone import House
from tests.server.test_compression import CALL
from tests.tiny import tiny_anchored, tiny_compressor

DOCUMENT = (
    "The lighthouse keeper wrote one line a day. On Monday: wind from the north, eleven ships, no fog. "
    "The inspector liked the stove and disliked the stairs. A reader who had the ninety lines had the winter."
)
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


class Numbers:
    """A tokenizer whose words are numbers."""

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return " ".join(map(str, token_ids))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    opened = await EmbeddedStore.open(tmp_path / "alone.sqlite3")
    yield opened
    await opened.close()


@pytest.fixture
async def anchored(serve: Serve, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    tiny_anchored(max_positions=256).save_pretrained(tmp_path / "anchored")
    async with serve(model=str(tmp_path / "anchored"), export_secret="a word") as client:
        yield client


@pytest.fixture(params=["summary tokens", "anchored"])
async def either(serve: Serve, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A server of each kind of vectors."""
    settings = {}
    if request.param == "anchored":
        tiny_anchored(max_positions=256).save_pretrained(tmp_path / "anchored")
        settings["model"] = str(tmp_path / "anchored")
    async with serve(**settings) as client:
        yield client


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code in (200, 201), response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_relevance_is_of_rare_words_that_come_often() -> None:
    texts = ["the stove", "the sea and the ships", "ships, ships, ships", "The fog"]
    scores = Passages(texts).scores("The ships?")
    assert sorted(range(4), key=lambda place: -scores[place])[0] == 2
    assert scores[1] > scores[0] == 0, "the word that all have says nothing"
    assert not Passages(texts).scores("nothing").any()
    assert not Passages(["", "!"]).scores("anything").any()


@pytest.mark.parametrize("max_vectors", [None, 4])
async def test_the_text_stands_in_its_place_among_the_vectors(store: EmbeddedStore, max_vectors: int | None) -> None:
    house = House(store, tokenizer=Numbers())
    expander = Expander(house.model, house.all_summaries, house.prompter)
    summary = await house.compress(range(18), keep_text=True)
    plan = house.prompter.plan_tokens(CALL, (summary,), [9, 10, 500], max_vectors=max_vectors)
    plan = await expander.expanded(plan, 1)
    prompt = await house.prompter.assemble(plan)
    assert prompt.soft_prompt is not None
    (told,) = plan.expanded
    assert (told.summary_id, told.segment, told.tokens) == (summary.id, 2, 4)
    before = sum(plan.shares[0].lengths[:2])
    torch.testing.assert_close(prompt.soft_prompt[before : before + 4], house.engine.embed(range(8, 12)))
    kept = torch.cat([prompt.soft_prompt[:before], prompt.soft_prompt[before + 4 :]])
    whole = (await house.summaries.vectors(summary)).split([2, 2, 2, 2, 1])
    shares = [(rows, length) for rows, length in zip(whole, plan.shares[0].lengths, strict=True) if length != 4]
    torch.testing.assert_close(kept, torch.cat([rows[len(rows) - length :] for rows, length in shares]))
    assert f"{summary.manifest.segments[2]}:text" in prompt.keys
    assert sum(prompt.key_lengths) == len(prompt.soft_prompt) == plan.num_positions == plan.num_vectors + 4


async def test_what_shares_no_word_stays_vectors(store: EmbeddedStore) -> None:
    house = House(store, tokenizer=Numbers())
    expander = Expander(house.model, house.all_summaries, house.prompter)
    summary = await house.compress(range(18), keep_text=True)
    plan = house.prompter.plan_tokens(CALL, (summary,), [9, 17])
    assert [each.segment for each in (await expander.expanded(plan, 5)).expanded] == [2, 4]
    assert [each.segment for each in (await expander.expanded(plan, 5, "3 too")).expanded] == [0]
    assert await expander.expanded(plan, 5, "else") == plan


async def test_thinning_leaves_expanded_segments_whole(store: EmbeddedStore) -> None:
    house = House(store, tokenizer=Numbers())
    expander = Expander(house.model, house.all_summaries, house.prompter)
    summary = await house.compress(range(400), keep_text=True)
    plan = await expander.expanded(house.prompter.plan_tokens(CALL, (summary,), [9, 17, 300]), 2)
    fitted = house.prompter.fitted(plan, 8)
    assert (fitted.expanded_tokens, fitted.num_vectors, fitted.thinned_vectors) == (8, 32, 196 - 32)
    assert (await house.prompter.assemble(fitted)).num_positions == 8 + 32 + 3


async def test_texts_live_and_go_with_their_summary(store: EmbeddedStore) -> None:
    house = House(store)
    one = await house.compress(range(12), keep_text=True, ttl_seconds=5000.0)
    other = await house.compress([*range(4), 77], keep_text=True)
    texts = house.summaries.segments.texts
    assert await texts(one.manifest.segments) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    stat = await house.store.stat(f"text:{one.manifest.segments[1]}")
    assert stat is not None
    assert stat.seconds_to_live is not None
    assert 4990 < stat.seconds_to_live <= 5000
    await house.summaries.delete(one.id)
    assert await texts(one.manifest.segments) == [(0, 1, 2, 3), None, None], "what another document has stays"
    await house.summaries.delete(other.id)
    assert await texts(other.manifest.segments) == [None, None]


async def test_text_can_be_kept_of_a_document_that_is_stored(store: EmbeddedStore) -> None:
    house = House(store)
    plain = await house.compress(range(12), metadata={"a": "1"})
    assert not plain.manifest.has_text
    kept = await house.compressed(range(12), keep_text=True)
    assert (kept.is_new, kept.summary.manifest.has_text, kept.summary.manifest.metadata) == (False, True, {"a": "1"})
    assert (await house.compress(range(12))).manifest.has_text
    assert house.engine.num_computed == 3
    assert None not in await house.summaries.segments.texts(plain.manifest.segments)
    appended = await house.compress(range(12, 20), parent=kept.summary.id, keep_text=True)
    assert None not in await house.summaries.segments.texts(appended.manifest.segments)
    without = await house.compress(range(50, 60))
    with pytest.raises(InvalidRequest, match="was not kept") as refused:
        await house.compress([1], parent=without.id, keep_text=True)
    assert refused.value.param == "keep_text"


async def test_a_wholly_expanded_summary_is_the_text(either: httpx.AsyncClient) -> None:
    client = either
    services = client.services  # type: ignore[attr-defined]
    summary = await post(client, "/compress", text=DOCUMENT, keep_text=True)
    assert summary["has_text"]
    answer = await post(
        client, "/generate", summary_ids=[summary["id"]], prompt=DOCUMENT, expand={"segments": 64}, **GREEDY
    )
    expanded = answer["receipt"]["expanded"]
    assert [each["segment"] for each in expanded] == list(range(summary["segments"]))
    assert sum(each["tokens"] for each in expanded) == summary["tokens"]
    ids = services.model.tokenise(DOCUMENT, is_start=False)
    assert answer["usage"]["summary_vectors"] == answer["usage"]["summarised_tokens"] == 0
    assert answer["usage"]["prompt_tokens"] == 2 * len(ids)
    if not services.model.is_ordered:  # an adapter is on where anchored vectors are read, and off for a text alone
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
        reference = [event.text async for event in services.decoder.generate(Prompt(None, (*ids, *ids)), params)]
        assert answer["text"] == "".join(reference)


async def test_every_route_expands_and_says_so(either: httpx.AsyncClient) -> None:
    client = either
    summary = await post(client, "/compress", text=DOCUMENT, keep_text=True)
    one, expand = summary["id"], {"segments": 1}
    asked = {"summary_ids": [one], "prompt": "Who disliked the stairs?", "expand": expand}
    scored = await post(client, "/score", continuations=[" The inspector"], **asked)
    generated = await post(client, "/generate", **asked, **GREEDY)
    part = {"type": "summary", "id": one}
    text = {"type": "text", "text": "Who disliked the stairs?"}
    completed = await post(client, "/v1/completions", prompt=[part, text], expand=expand, **GREEDY)
    messages = [{"role": "user", "content": [part, text]}]
    chatted = await post(client, "/v1/chat/completions", messages=messages, expand=expand, **GREEDY)
    told = [scored["receipt"], generated["receipt"], completed["compression"], chatted["compression"]]
    assert all(each["expanded"] == told[0]["expanded"] for each in told)
    (segment,) = told[0]["expanded"]
    assert segment["summary_id"] == one
    assert completed["compression"]["summary_vectors"] == summary["vectors"] - 4
    again = await post(client, "/generate", **asked, **GREEDY)
    assert again["text"] == generated["text"]
    assert again["receipt"]["cache"] == "memory"


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_without_kept_text_the_error_names_the_field(client: httpx.AsyncClient, path: str) -> None:
    summary = await post(client, "/compress", text=DOCUMENT)
    prompts: dict[str, dict[str, Any]] = {
        "/generate": {"summary_ids": [summary["id"]], "prompt": "Who?"},
        "/v1/completions": {"prompt": [{"type": "summary", "id": summary["id"]}, {"type": "text", "text": "Who?"}]},
    }
    response = await client.post(path, json={**prompts[path], "expand": {"segments": 1}})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "expand"
    assert "keep_text" in response.json()["error"]["message"]
    response = await client.post("/generate", json={"prompt": "Who?", "expand": {"segments": 1}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "expand")


@pytest.mark.parametrize(("family", "accumulates"), [("opt", True), ("llama", False)])
async def test_a_model_that_cannot_read_text_among_vectors_says_so(
    serve: Serve, tmp_path: Path, *, family: str, accumulates: bool
) -> None:
    tiny_compressor(family, accumulate_summary=accumulates, max_positions=256).save_pretrained(tmp_path / "other")
    async with serve(model=str(tmp_path / "other")) as client:
        summary = await post(client, "/compress", text=DOCUMENT, keep_text=True)
        asked = {"summary_ids": [summary["id"]], "prompt": "Who disliked the stairs?", "expand": {"segments": 1}}
        refused = await client.post("/generate", json=asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "expand")


async def test_nearness_is_of_vectors_not_of_texts_among_them(anchored: httpx.AsyncClient) -> None:
    services = anchored.services  # type: ignore[attr-defined]
    summary = await post(anchored, "/compress", text=DOCUMENT, keep_text=True)
    stored = await services.summaries.of(Tenant()).get(summary["id"], param="id")
    plan = await services.expander.expanded(services.prompter.plan_tokens(CALL, (stored,), [5, 6]), 2, DOCUMENT)
    (gathered,) = await services.prompter.gather(plan)
    assert plan.expanded_tokens
    assert len(gathered.vectors) == plan.num_positions
    whole = await services.summaries.of(Tenant()).vectors(stored)
    assert len(gathered.summary_vectors) == plan.num_vectors
    torch.testing.assert_close(gathered.summary_vectors[0], whole[0])


async def test_fewer_vectors_over_the_api(anchored: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    summary = await post(anchored, "/compress", text=DOCUMENT)
    asked = {"summary_ids": [summary["id"]], "prompt": "Who?", "max_vectors": 5}
    answer = await post(anchored, "/generate", **asked, **GREEDY)
    assert answer["usage"]["summary_vectors"] == 5
    assert answer["usage"]["thinned_vectors"] == answer["receipt"]["thinned_vectors"] == summary["vectors"] - 5
    ranked = await post(anchored, "/rerank", query="Who?", documents=[{"summary_id": summary["id"]}], max_vectors=5)
    assert ranked["usage"]["summary_vectors"] == 5
    told = await post(anchored, "/v1/completions", prompt=[5] * 900, **GREEDY)
    assert told["compression"]["thinned_vectors"] > 0
    assert told["compression"]["dropped_tokens"] == 0
    assert told["compression"]["compressed_tokens"] + told["compression"]["raw_tokens"] == 900
    for path, body in (
        ("/generate", {"prompt": "Who?"}),
        ("/v1/completions", {"prompt": "Who?"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Who?"}]}),
        ("/rerank", {"query": "Who?", "documents": ["A text."]}),
    ):
        response = await client.post(path, json={**body, "max_vectors": 5})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == "max_vectors"


async def test_an_anchored_summary_is_exported_and_imported(
    anchored: httpx.AsyncClient, serve: Serve, tmp_path: Path
) -> None:
    summary = await post(anchored, "/compress", text=DOCUMENT, keep_text=True)
    asked = {"summary_ids": [summary["id"]], "prompt": "Who?", "max_vectors": 5, **GREEDY}
    answer = await post(anchored, "/generate", **asked)
    data = (await anchored.get(f"/summaries/{summary['id']}", params={"format": "safetensors"})).content
    async with serve(
        model=str(tmp_path / "anchored"), store=f"sqlite:{tmp_path}/other.sqlite3", export_secret="a word"
    ) as other:
        other_id = "0" * 40
        assert (await other.put(f"/summaries/{other_id}", content=data)).status_code == 400
        taken = await other.put(f"/summaries/{summary['id']}", content=data)
        assert taken.status_code == 201, taken.text
        assert not taken.json()["has_text"]
        assert (await post(other, "/generate", **asked))["text"] == answer["text"]


async def test_what_was_compressed_of_the_prompt_itself_is_put_back(either: httpx.AsyncClient) -> None:
    """A conversation that outgrew the window: the segment that the question speaks of is read as text."""
    client = either
    services = client.services  # type: ignore[attr-defined]
    said = [
        {"role": "user", "content": "My dog is called Zwpqz."},
        *({"role": role, "content": f"{n} and then the wind."} for n in range(30) for role in ("assistant", "user")),
        {"role": "user", "content": "Zwpqz?"},
    ]
    asked = {"messages": said, "max_tokens": 2, "temperature": 0}
    plain = await post(client, "/v1/chat/completions", **asked)
    answer = await post(client, "/v1/chat/completions", **asked, expand={"segments": 1})
    assert plain["compression"]["compressed_tokens"] > 0
    assert plain["compression"]["expanded"] == []
    told = answer["compression"]
    length = services.model.config.segment_length
    (expanded,) = told["expanded"]
    assert (expanded["summary_id"], expanded["tokens"]) == (None, length)
    assert length * expanded["segment"] < len(services.model.tokenise(said[0]["content"], is_start=True)) + length
    read = told["compressed_tokens"] + told["raw_tokens"] + told["dropped_tokens"] + length
    assert read == answer["usage"]["prompt_tokens"]
    short = await post(client, "/v1/chat/completions", **asked | {"messages": said[:1]}, expand={"segments": 2})
    assert short["compression"]["expanded"] == []
