"""Conversations that are compacted into summary vectors, and go on from there."""

import asyncio
import random
import sqlite3
import string
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.compressors import SegmentSummary
from server.core.documents.store_calls import StoreCalls
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import CarriedSegment
from server.core.responses.compacted import Compacted, decode, encode
from server.core.responses.items import Message, TextPart
from server.core.responses.sealing import Sealer
from server.core.tenant import Tenant
from server.errors import InvalidRequest, TooLong
from server.metrics import Metrics
from server.store import open_store
from server.store.codec import FingerprintMismatch
from tests.server.conftest import Serve
from tests.server.test_responses import events_of, model_of, respond, text_of
from tests.tiny import tiny_anchored, tiny_compressor

STORY = [
    {"role": "user", "content": "A keeper lives in the lighthouse. Her name is Mary."},
    {"role": "assistant", "content": "I see. And the lamp?"},
    {"role": "user", "content": "The lamp burns oil, and the oil is kept in the cellar."},
    {"role": "assistant", "content": "Then the cellar is full."},
]
QUESTION = {"role": "user", "content": "Who lives there?"}


async def compact(client: httpx.AsyncClient, *, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/responses/compact", json={"model": await model_of(client), **body})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def count(client: httpx.AsyncClient, **body: Any) -> int:
    answer = await client.post("/v1/responses/input_tokens", json={"model": await model_of(client), **body})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["input_tokens"])


async def test_users_messages_stay_and_one_item_stands_for_all(client: httpx.AsyncClient) -> None:
    done = await compact(client, input=STORY)
    assert done["object"] == "response.compaction"
    *kept, item = done["output"]
    assert [(each["role"], each["content"][0]["text"]) for each in kept] == [
        ("user", STORY[0]["content"]),
        ("user", STORY[2]["content"]),
    ]
    assert all(each["id"] and each["status"] == "completed" for each in kept)
    assert set(item) == {"id", "type", "encrypted_content"}
    assert done["usage"]["input_tokens"] > 0 == done["usage"]["input_tokens_details"]["cached_tokens"]


async def test_what_was_compacted_is_read_as_vectors_and_not_as_text(client: httpx.AsyncClient) -> None:
    done = await compact(client, input=STORY[:2])
    vectors = done["compression"]["compaction"]["vectors"]
    alone = await count(client, input=[QUESTION])
    assert await count(client, input=[*done["output"], QUESTION]) == vectors + alone
    assert await count(client, input=[done["output"][-1], QUESTION]) == vectors + alone
    assert await count(client, input=[*STORY[:2], QUESTION]) > vectors + alone


async def test_the_same_conversation_is_compacted_once(client: httpx.AsyncClient) -> None:
    first, second = await compact(client, input=STORY), await compact(client, input=STORY)
    usage = second["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == usage["input_tokens"] == first["usage"]["input_tokens"]
    answers = [await respond(client, input=[*each["output"], QUESTION]) for each in (first, second)]
    assert text_of(answers[0]) == text_of(answers[1])


@pytest.mark.parametrize("store", [True, False])
async def test_only_what_is_new_is_read_when_a_compacted_conversation_grows(
    client: httpx.AsyncClient, *, store: bool
) -> None:
    first = await compact(client, input=STORY[:2], store=store)
    second = await compact(client, input=[*first["output"], *STORY[2:]], store=store)
    new = await compact(client, input=STORY[2:], store=False)
    # a text that begins a document has the start token before it
    assert abs(second["usage"]["input_tokens"] - new["usage"]["input_tokens"]) <= 1
    vectors = [each["compression"]["compaction"]["vectors"] for each in (first, second)]
    assert vectors[1] > vectors[0]
    assert len([item for item in second["output"] if item["type"] == "compaction"]) == 1


async def test_a_carried_conversation_leaves_nothing_in_the_store(client: httpx.AsyncClient, tmp_path: Path) -> None:
    before = (await client.get("/summaries")).json()["data"]
    done = await compact(client, input=STORY, store=False)
    answer = await respond(client, input=[*done["output"], QUESTION], store=False)
    assert answer["status"] in ("completed", "incomplete")
    assert (await client.get("/summaries")).json()["data"] == before == []
    with sqlite3.connect(tmp_path / "store.sqlite3") as file:
        assert [key for (key,) in file.execute("SELECT key FROM entry")] == ["secret:compaction"]


async def test_a_carried_conversation_is_read_as_the_stored_one_but_for_rounding(client: httpx.AsyncClient) -> None:
    stored, carried = [await compact(client, input=STORY, store=store) for store in (True, False)]
    assert stored["compression"]["compaction"]["vectors"] == carried["compression"]["compaction"]["vectors"]
    sizes = [each["compression"]["compaction"]["encrypted_characters"] for each in (stored, carried)]
    assert sizes[0] < sizes[1]
    answers = [await respond(client, input=[*each["output"], QUESTION], top_logprobs=1) for each in (stored, carried)]
    first, second = [each["output"][0]["content"][0]["logprobs"][0]["logprob"] for each in answers]
    assert first == pytest.approx(second, abs=0.05)
    assert answers[0]["usage"]["input_tokens"] == answers[1]["usage"]["input_tokens"]


async def test_an_item_is_read_by_every_server_that_has_the_key(serve: Serve, tmp_path: Path) -> None:
    other = f"sqlite:{tmp_path}/other.sqlite3"
    async with serve(compaction_keys="a word") as client:
        done = await compact(client, input=STORY, store=False)
        here = await respond(client, input=[*done["output"], QUESTION])
    async with serve(compaction_keys="newer, a word", store=other) as client:
        there = await respond(client, input=[*done["output"], QUESTION])
        resealed = await compact(client, input=done["output"], store=False)
    assert text_of(here) == text_of(there)
    async with serve(compaction_keys="newer", store=other) as client:
        refused = await respond(client, status=400, input=[*done["output"], QUESTION])
        assert "with a key that is gone" in refused["error"]["message"]
        assert refused["error"]["param"] == "input"
        again = await respond(client, input=[*resealed["output"], QUESTION])
    assert text_of(again) == text_of(here)


async def test_an_item_of_another_tenant_is_refused(serve: Serve) -> None:
    async with serve() as client:
        done = await compact(client, input=STORY)
    async with serve(tenant_salt="another") as client:
        refused = await respond(client, status=400, input=[*done["output"], QUESTION])
    assert "for another client" in refused["error"]["message"]


async def test_an_item_of_another_model_is_refused(serve: Serve, tmp_path: Path) -> None:
    async with serve() as client:
        done = await compact(client, input=STORY)
    tiny_compressor(max_positions=512, seed=9).save_pretrained(tmp_path / "other")
    async with serve(model=str(tmp_path / "other")) as client:
        refused = await respond(client, status=400, input=[*done["output"], QUESTION])
    assert refused["error"]["code"] == "model_mismatch"


@pytest.mark.parametrize("store", [True, False])
async def test_an_item_whose_summary_is_gone_says_so(client: httpx.AsyncClient, *, store: bool) -> None:
    done = await compact(client, input=STORY)
    (summary,) = (await client.get("/summaries")).json()["data"]
    await client.delete(f"/summaries/{summary['id']}")
    refused = await respond(client, status=400, input=[*done["output"], QUESTION])
    assert refused["error"]["code"] == "compaction_expired"
    refused = await compact(client, status=400, input=[*done["output"], QUESTION], store=store)
    assert refused["error"]["code"] == "compaction_expired"


async def test_what_systems_and_developers_say_is_kept_word_for_word(client: httpx.AsyncClient) -> None:
    system = {"role": "system", "content": "Speak as a sailor does."}
    done = await compact(client, input=[system, *STORY])
    plain = await compact(client, input=STORY)
    extra = await count(client, input=[system, QUESTION]) - await count(client, input=[QUESTION])
    with_it, without = [await count(client, input=[*each["output"], QUESTION]) for each in (done, plain)]
    assert with_it == without + extra
    # and is not said twice where a client sends it again
    assert await count(client, input=[system, *done["output"], QUESTION]) == with_it
    other = {"role": "developer", "content": "Speak as a sailor does!"}
    assert await count(client, input=[other, *done["output"], QUESTION]) > with_it


async def test_a_conversation_is_compacted_on_the_way_when_it_is_long(client: httpx.AsyncClient) -> None:
    rule = {"context_management": [{"type": "compaction", "compact_threshold": 80}]}
    first = await respond(client, input=STORY[0]["content"], **rule)
    assert [item["type"] for item in first["output"]] == ["message"]
    second = await respond(client, input=[*STORY[1:], QUESTION], previous_response_id=first["id"], **rule)
    assert [item["type"] for item in second["output"]] == ["compaction", "message"]
    told = second["compression"]["compaction"]
    assert told["tokens"] > 0
    assert told["vectors"] > 0
    # what was asked is still read as it was
    assert second["compression"]["raw_tokens"] == await count(client, input=[QUESTION])
    third = await respond(client, input="Where?", previous_response_id=second["id"])
    items = [*second["output"], {"role": "user", "content": "Where?"}]
    by_items = await respond(client, input=items)
    assert text_of(third) == text_of(by_items)
    assert third["usage"]["input_tokens"] == by_items["usage"]["input_tokens"]


async def test_of_users_messages_alone_the_last_is_kept(client: httpx.AsyncClient) -> None:
    said = [message for message in STORY if message["role"] == "user"]
    rule = {"context_management": [{"type": "compaction", "compact_threshold": 40}]}
    answer = await respond(client, input=[*said, QUESTION], **rule)
    assert [item["type"] for item in answer["output"]] == ["compaction", "message"]
    assert answer["compression"]["raw_tokens"] == await count(client, input=[QUESTION])


async def test_the_compaction_stands_before_the_reply_in_a_stream(client: httpx.AsyncClient) -> None:
    body = {
        "model": await model_of(client),
        "input": [*STORY, QUESTION],
        "stream": True,
        "max_output_tokens": 16,
        "temperature": 0,
        "context_management": [{"type": "compaction", "compact_threshold": 40}],
    }
    events = events_of((await client.post("/v1/responses", json=body)).text)
    kinds = [(event["type"], event.get("item", {}).get("type")) for event in events]
    assert kinds[2:5] == [
        ("response.output_item.added", "compaction"),
        ("response.output_item.done", "compaction"),
        ("response.output_item.added", "message"),
    ]
    assert [event["output_index"] for event in events[2:5]] == [0, 0, 1]
    assert events[3]["item"] == events[-1]["response"]["output"][0]


async def test_a_long_conversation_stays_within_its_bound(client: httpx.AsyncClient) -> None:
    rule = {"context_management": [{"type": "compaction", "compact_threshold": 120}]}
    last: dict[str, Any] | None = None
    sizes, num_compacted = [], 0
    for turn in range(12):
        said = f"This is what happens on day {turn} of the voyage."
        before = {} if last is None else {"previous_response_id": last["id"]}
        last = await respond(client, input=said, ignore_eos=True, **before, **rule)
        sizes.append(last["usage"]["input_tokens"])
        num_compacted += last["compression"]["compaction"] is not None
    assert num_compacted >= 3
    assert max(sizes[4:]) <= 120 + 2 * 16  # and as many as two segments that are read as text
    records = client.core.records  # type: ignore[attr-defined]
    turn = await records.get(client.core.tenant, last["id"])  # type: ignore[attr-defined, index]
    assert len(turn.before) <= 6  # not all that was ever said


async def test_a_trigger_asks_for_nothing_but_the_item(client: httpx.AsyncClient) -> None:
    body = {"model": await model_of(client), "input": [*STORY, {"type": "compaction_trigger"}], "stream": True}
    events = events_of((await client.post("/v1/responses", json=body)).text)
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["compaction"]
    done = await compact(client, input=STORY)
    assert await count(client, input=[*response["output"], QUESTION]) == await count(
        client, input=[*done["output"], QUESTION]
    )


async def test_a_trigger_in_another_place_is_refused(client: httpx.AsyncClient) -> None:
    trigger = {"type": "compaction_trigger"}
    for path, items in (("", [trigger, *STORY]), ("/compact", [*STORY, trigger]), ("/input_tokens", [trigger])):
        body = {"model": await model_of(client), "input": items}
        refused = await client.post(f"/v1/responses{path}", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "input"


async def test_a_question_brings_back_what_it_speaks_of_as_text(serve: Serve, tmp_path: Path) -> None:
    tiny_anchored(max_positions=512).save_pretrained(tmp_path / "anchored")
    async with serve(model=str(tmp_path / "anchored")) as client:
        texts = [f"On day {day} the ship carries nothing." for day in range(20)]
        texts[3] = "Mary hides the silver spoon under the stairs."
        items = [{"role": "user", "content": text} for text in texts]
        for store in (True, False):
            done = await compact(client, input=items, store=store)
            question = {"role": "user", "content": "silver spoon stairs"}
            answer = await respond(client, input=[*done["output"], question], store=store, expand={"segments": 2})
            (*_, found) = answer["compression"]["expanded"]
            assert found["tokens"] > 0
            by_default = await respond(client, input=[*done["output"], question], store=store)
            assert by_default["compression"]["expanded"]
            none = await respond(client, input=[*done["output"], question], store=store, expand={"segments": 0})
            assert none["compression"]["expanded"] == []
            # without text there is room for more vectors
            assert none["compression"]["summary_vectors"] > by_default["compression"]["summary_vectors"]


@pytest.mark.parametrize("family", ["opt", "llama-rmt"])
async def test_models_that_expand_nothing_are_compacted_all_the_same(serve: Serve, tmp_path: Path, family: str) -> None:
    is_rmt = family == "llama-rmt"
    model = tiny_compressor("llama" if is_rmt else family, max_positions=512, accumulate_summary=not is_rmt)
    model.save_pretrained(tmp_path / "other")
    async with serve(model=str(tmp_path / "other")) as client:
        for store in (True, False):
            done = await compact(client, input=STORY, store=store)
            answer = await respond(client, input=[*done["output"], QUESTION], store=store)
            assert answer["compression"]["expanded"] == []
            assert answer["compression"]["summary_vectors"] > 0


async def test_more_than_a_chain_takes_goes_into_others(client: httpx.AsyncClient) -> None:
    words = " ".join(["keeper lamp oil cellar"] * 40)
    items = [{"role": "user", "content": words} for _ in range(12)]
    for store in (True, False):
        done = await compact(client, input=items, store=store)
        answer = await respond(client, input=[*done["output"], QUESTION], store=store, truncation="auto")
        assert answer["status"] in ("completed", "incomplete")


async def test_a_conversation_longer_than_any_document_is_carried(client: httpx.AsyncClient) -> None:
    document_tokens = (await client.get("/info")).json()["limits"]["max_document_tokens"]
    items = [{"role": "user", "content": "lamp oil cellar keeper " * 16}] * 100
    done = await compact(client, input=items, store=False)
    assert done["usage"]["input_tokens"] > document_tokens
    assert len(str(items)) > 16 * document_tokens  # so long that a document would be refused by its beginning


async def test_what_no_item_has_room_for_is_refused_before_any_work(client: httpx.AsyncClient) -> None:
    items = [{"role": "user", "content": "a" * 100_000}, {"role": "user", "content": "keeper " * 1_500_000}]
    before = (await client.get("/metrics")).text
    refused = await compact(client, input=items, store=False, status=400)
    assert refused["error"]["param"] == "input"
    assert "10485760" in refused["error"]["message"]
    assert _num_segments((await client.get("/metrics")).text) == _num_segments(before)


def _num_segments(metrics: str) -> float:
    counts = [
        line
        for line in metrics.splitlines()
        if line.startswith('autocompressor_queue_wait_seconds_count{kind="segment"}')
    ]
    return sum(float(count.split()[1]) for count in counts)


async def test_compactions_beside_deletions_are_made_or_say_what_is_gone(client: httpx.AsyncClient) -> None:
    body = {"model": await model_of(client), "input": [*STORY, QUESTION]}
    gone: list[str] = []

    async def made() -> list[httpx.Response]:
        return [await client.post("/v1/responses/compact", json=body) for _ in range(12)]

    making = [asyncio.create_task(made()) for _ in range(3)]
    while not all(task.done() for task in making):
        ids = [each["id"] for each in (await client.get("/summaries")).json()["data"]]
        for summary_id in ids:
            await client.delete(f"/summaries/{summary_id}")
        gone += ids
    assert gone
    for answer in [answer for task in making for answer in await task]:
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "compaction_expired", answer.text


async def test_nothing_is_no_conversation(client: httpx.AsyncClient) -> None:
    refused = await compact(client, status=400, input=[{"role": "system", "content": "Be short."}])
    assert "no message" in refused["error"]["message"]
    refused = await compact(client, status=404, input=STORY, model="another")
    assert refused["error"]["code"] == "model_not_found"
    missing = await client.post("/v1/responses/compact", json={"input": STORY})
    assert missing.status_code == 400
    assert missing.json()["error"]["param"] == "model"


# what an item is made of


def _sealer(store: Any, *given: str) -> Sealer:
    return Sealer(StoredSecret(store, StoreCalls(Metrics()), "compaction", None), given)


async def test_ten_thousand_changed_items_are_none_accepted(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:{tmp_path}/store.sqlite3")
    sealer, tenant, draw = _sealer(store), Tenant(), random.Random(0)
    sealed = await sealer.seal(tenant, b"what was said" * 20)
    assert await sealer.open(tenant, sealed, param="input") == b"what was said" * 20
    alphabet = string.ascii_letters + string.digits + "-_=+/ é"
    num_refused = 0
    for _ in range(10_000):
        place = draw.randrange(len(sealed))
        other = draw.choice([each for each in alphabet if each != sealed[place]])
        changed = draw.choice(
            [
                sealed[:place] + other + sealed[place + 1 :],
                sealed[:place],
                sealed[:place] + sealed[place + 1 :],
                sealed[:place] + other + sealed[place:],
                sealed + other,
            ]
        )
        with pytest.raises(InvalidRequest):
            await sealer.open(tenant, changed, param="input")
        num_refused += 1
    assert num_refused == 10_000
    await store.close()


async def test_an_item_too_large_to_send_back_is_refused(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:{tmp_path}/store.sqlite3")
    with pytest.raises(TooLong, match="10485760"):
        await _sealer(store, "a").seal(Tenant(), bytes(8 * 2**20))
    await store.close()


def test_what_is_encoded_is_decoded() -> None:
    draw = torch.manual_seed(0)
    segments = tuple(
        CarriedSegment(SegmentSummary(torch.randn(n, 8, generator=draw), torch.arange(n), torch.arange(n)), (1, 2, n))
        for n in (3, 2)
    )
    said = (Message("msg_1", "user", (TextPart("é"),)),)
    compacted = Compacted(("a" * 40, segments), said, said)
    data = encode(compacted, fingerprint="f")
    again = decode(data, fingerprint="f", dtype=torch.float32)
    assert again.parts[0] == "a" * 40
    assert (again.instructions, again.rest) == (said, said)
    back = again.parts[1]
    assert [each.token_ids for each in back] == [(1, 2, 3), (1, 2, 2)]  # type: ignore[union-attr]
    assert [len(each.summary) for each in back] == [3, 2]  # type: ignore[union-attr]
    # what was rounded once is not rounded again
    twice = decode(encode(again, fingerprint="f"), fingerprint="f", dtype=torch.float32)
    for one, two in zip(back, twice.parts[1], strict=True):
        assert torch.allclose(one.summary.vectors, two.summary.vectors, rtol=1e-6)  # type: ignore[union-attr]
    with pytest.raises(FingerprintMismatch):
        decode(data, fingerprint="g", dtype=torch.float32)


# on the other routes


@pytest.mark.parametrize("store", [True, False])
async def test_other_routes_take_an_item(client: httpx.AsyncClient, *, store: bool) -> None:
    done = await compact(client, input=STORY, store=store)
    item, vectors = done["output"][-1], done["compression"]["compaction"]["vectors"]
    model = await model_of(client)
    sealed = {"encrypted_content": item["encrypted_content"]}
    asked = {"context": [sealed, {"text": "Who?"}], "max_tokens": 2, "temperature": 0}
    generated = (await client.post("/generate", json=asked)).json()
    assert generated["usage"]["summary_vectors"] == vectors
    scored = (
        await client.post("/score", json={"context": [sealed, {"text": "Who?"}], "continuations": ["Mary"]})
    ).json()
    assert scored["usage"]["summary_vectors"] == vectors
    ranked = (await client.post("/rerank", json={"query": "Who?", "documents": [sealed, "Nobody."]})).json()
    (own,) = [result for result in ranked["results"] if result["index"] == 0]
    assert (own["summary_id"] is not None) == store
    content = [item, {"type": "text", "text": "Who?"}]
    chat = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 2, "temperature": 0}
    answered = (await client.post("/v1/chat/completions", json=chat)).json()
    assert answered["compression"]["summary_vectors"] == vectors
    completed = await client.post("/v1/completions", json={"model": model, "prompt": content, "max_tokens": 2})
    assert completed.json()["compression"]["summary_vectors"] == vectors


async def test_what_is_kept_word_for_word_is_read_on_other_routes(client: httpx.AsyncClient) -> None:
    system = {"role": "system", "content": "Speak as a sailor does."}
    usages = []
    for items in ([system, *STORY], STORY):
        item = (await compact(client, input=items))["output"][-1]
        sealed = {"encrypted_content": item["encrypted_content"]}
        chat = {"messages": [{"role": "user", "content": [item, {"type": "text", "text": "Who?"}]}], "max_tokens": 1}
        answers = [
            await client.post("/generate", json={"context": [sealed, {"text": "Who?"}], "max_tokens": 1}),
            await client.post("/v1/chat/completions", json=chat | {"model": await model_of(client)}),
            await client.post("/rerank", json={"query": "Who?", "documents": [sealed]}),
        ]
        usages.append([answer.json()["usage"]["prompt_tokens"] for answer in answers])
    assert all(with_it > without for with_it, without in zip(*usages, strict=True))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"context": [{"encrypted_content": "a"}, {"text": "b"}]}, "context"),
        ("/rerank", {"query": "a", "documents": [{"encrypted_content": "a"}]}, "documents.0"),
        ("/rerank", {"query": "a", "documents": [{"encrypted_content": "a", "text": "b"}]}, "documents.0"),
    ],
)
async def test_other_routes_refuse_what_is_no_item(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    refused = await client.post(path, json=body)
    assert refused.status_code in (400, 422)
    assert refused.json()["error"]["param"] == param
    assert "encrypted_content" in refused.json()["error"]["message"]
