"""`/v1/responses`: what is said, kept, gone on from and told, as Open Responses has it."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from server.store import Entry
from tests.server.conftest import Serve

LIFECYCLE = ["response.created", "response.in_progress"]
SPEECH = ["response.output_item.added", "response.content_part.added"]
SPOKEN = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
# every key of the specification's ResponseResource
KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier"),
    "prompt_cache_key",
}


async def model_of(client: httpx.AsyncClient) -> str:
    return str((await client.get("/v1/models")).json()["data"][0]["id"])


async def respond(client: httpx.AsyncClient, *, status: int = 200, **body: Any) -> dict[str, Any]:
    """A short greedy response."""
    asked = {"model": await model_of(client), "temperature": 0, "max_output_tokens": 16} | body
    answer = await client.post("/v1/responses", json=asked)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def events_of(text: str) -> list[dict[str, Any]]:
    """Of a stream its events; each is named as its type, and the last line is the end."""
    blocks = text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    events = []
    for block in blocks[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_a_response_has_every_key_of_the_specification(client: httpx.AsyncClient) -> None:
    response = await respond(client, input="A keeper", metadata={"a": "b"}, instructions="Be short.")
    assert set(response) >= KEYS
    assert response["object"] == "response"
    assert response["metadata"] == {"a": "b"}
    assert response["instructions"] == "Be short."
    (message,) = response["output"]
    assert message["role"] == "assistant"
    assert message["content"][0]["annotations"] == []
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_an_answer_that_is_cut_off_is_incomplete(client: httpx.AsyncClient) -> None:
    response = await respond(client, input="A keeper", ignore_eos=True)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete"
    assert response["completed_at"] is None
    assert response["usage"]["output_tokens"] == 16


async def test_the_streamed_response_is_the_whole_one(client: httpx.AsyncClient) -> None:
    body = {"input": "A keeper", "ignore_eos": True}
    whole = await respond(client, **body)
    model = await model_of(client)
    asked = {"model": model, "temperature": 0, "max_output_tokens": 16, "stream": True, **body}
    streamed = await client.post("/v1/responses", json=asked)
    events = events_of(streamed.text)
    kinds = [event["type"] for event in events]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    num_before = len(LIFECYCLE + SPEECH)
    assert kinds[:num_before] == LIFECYCLE + SPEECH
    assert kinds[num_before:] == ["response.output_text.delta"] * len(deltas) + SPOKEN + ["response.incomplete"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(deltas) == text_of(whole) == text_of(events[-1]["response"])
    kept = await client.get(f"/v1/responses/{events[-1]['response']['id']}")
    assert kept.json()["output"] == events[-1]["response"]["output"]


async def test_going_on_from_a_response_is_sending_all_of_it(client: httpx.AsyncClient) -> None:
    first = await respond(client, input="A keeper")
    second = await respond(client, input="Who?", previous_response_id=first["id"])
    third = await respond(client, input="Where?", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    items = [user("A keeper"), *first["output"], user("Who?"), *second["output"], user("Where?")]
    whole = await respond(client, input=items)
    assert text_of(third) == text_of(whole)
    assert third["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    count = await client.post("/v1/responses/input_tokens", json={"model": whole["model"], "input": items})
    assert count.json() == {"object": "response.input_tokens", "input_tokens": whole["usage"]["input_tokens"]}


async def test_instructions_are_not_inherited(client: httpx.AsyncClient) -> None:
    first = await respond(client, input="A keeper", instructions="Speak of the sea at great length, and of ships.")
    second = await respond(client, input="Who?", previous_response_id=first["id"])
    whole = await respond(
        client, input=[{"role": "user", "content": "A keeper"}, *first["output"], {"role": "user", "content": "Who?"}]
    )
    assert second["usage"]["input_tokens"] == whole["usage"]["input_tokens"]


async def test_a_conversation_outlives_the_server(serve: Serve) -> None:
    async with serve() as client:
        first = await respond(client, input="A keeper")
    async with serve() as client:
        second = await respond(client, input="Who?", previous_response_id=first["id"])
        assert (await client.get(f"/v1/responses/{first['id']}")).json()["output"] == first["output"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


async def test_what_is_not_to_be_stored_is_not(client: httpx.AsyncClient) -> None:
    response = await respond(client, input="A keeper", store=False)
    assert (await client.get(f"/v1/responses/{response['id']}")).status_code == 404
    refused = await respond(client, status=400, input="Who?", previous_response_id=response["id"])
    assert refused["error"]["code"] == "previous_response_not_found"
    assert refused["error"]["param"] == "previous_response_id"


async def test_a_deleted_response_is_gone_and_what_went_on_from_it_says_so(client: httpx.AsyncClient) -> None:
    first = await respond(client, input="A keeper")
    second = await respond(client, input="Who?", previous_response_id=first["id"])
    deleted = await client.delete(f"/v1/responses/{first['id']}")
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    for call in (client.get, client.delete):
        assert (await call(f"/v1/responses/{first['id']}")).status_code == 404
    refused = await respond(client, status=400, input="Where?", previous_response_id=second["id"])
    assert first["id"] in refused["error"]["message"]


async def test_a_damaged_response_is_told_as_one_that_is_gone_and_can_be_deleted(client: httpx.AsyncClient) -> None:
    first = await respond(client, input="A keeper")
    second = await respond(client, input="Who?", previous_response_id=first["id"])
    core = client.core  # type: ignore[attr-defined]
    space = core.store.space(core.tenant.account)
    await space.put_many([Entry(f"response:{first['id']}", b"junk")])
    for answer in (
        await client.get(f"/v1/responses/{first['id']}"),
        await client.get(f"/v1/responses/{first['id']}/input_items"),
    ):
        assert (answer.status_code, "damaged" in answer.text) == (404, True)
    for previous in (first, second):
        refused = await respond(client, status=400, input="Where?", previous_response_id=previous["id"])
        assert refused["error"]["code"] == "previous_response_not_found"
    assert (await client.delete(f"/v1/responses/{first['id']}")).status_code == 200


async def test_what_a_stored_response_answered_may_be_named_by_its_id(client: httpx.AsyncClient) -> None:
    question, then = {"role": "user", "content": "A keeper"}, {"role": "user", "content": "Who?"}
    first = await respond(client, input=[question])
    (message,) = first["output"]
    whole = await respond(client, input=[question, message, then])
    for reference in ({"type": "item_reference", "id": message["id"]}, {"id": message["id"]}):
        named = await respond(client, input=[question, reference, then])
        assert (text_of(named), named["usage"]) == (text_of(whole), whole["usage"])
    # what is kept of it is the item itself, so that it outlives the response that answered it
    await client.delete(f"/v1/responses/{first['id']}")
    listed = (await client.get(f"/v1/responses/{named['id']}/input_items")).json()["data"]
    assert listed[1] == message
    gone = await respond(client, status=400, input=[question, reference, then])
    assert gone["error"]["param"] == "input.1.id"
    # another caller's, and one that was never stored, are nobody's
    second = await respond(client, input=[question])
    unstored = await respond(client, input=[question], store=False)
    for response, headers in ((second, {"Authorization": "Bearer another"}), (unstored, {})):
        body = {"model": first["model"], "input": [{"type": "item_reference", "id": response["output"][0]["id"]}]}
        assert (await client.post("/v1/responses", json=body, headers=headers)).status_code == 400


async def test_input_items_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    items = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    response = await respond(client, input=items)
    path = f"/v1/responses/{response['id']}/input_items"
    newest = (await client.get(path, params={"limit": 2})).json()
    assert [item["content"][0]["text"] for item in newest["data"]] == ["three", "two"]
    assert newest["has_more"]
    rest = (await client.get(path, params={"limit": 2, "after": newest["last_id"]})).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["one"]
    assert not rest["has_more"]
    oldest = (await client.get(path, params={"order": "asc"})).json()
    assert [item["content"][0]["text"] for item in oldest["data"]] == ["one", "two", "three"]
    assert (await client.get(path, params={"after": "msg_none"})).status_code == 400


async def test_a_response_that_is_over_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    response = await respond(client, input="A keeper")
    refused = await client.post(f"/v1/responses/{response['id']}/cancel")
    assert refused.status_code == 400
    assert "background" in refused.json()["error"]["message"]
    assert (await client.post("/v1/responses/resp_none/cancel")).status_code == 404


async def test_logprobs_are_given_where_they_are_asked_for(client: httpx.AsyncClient) -> None:
    plain = await respond(client, input="A keeper", ignore_eos=True)
    assert "logprobs" not in plain["output"][0]["content"][0]
    told = await respond(client, input="A keeper", ignore_eos=True, top_logprobs=2)
    logprobs = told["output"][0]["content"][0]["logprobs"]
    assert len(logprobs) == 16
    assert all(len(each["top_logprobs"]) == 2 and each["logprob"] <= 0 for each in logprobs)


async def test_a_path_without_the_version_is_the_same(client: httpx.AsyncClient) -> None:
    body = {"model": await model_of(client), "input": "A keeper", "temperature": 0, "max_output_tokens": 16}
    answers = [await client.post(path, json=body) for path in ("/responses", "/v1/responses")]
    assert text_of(answers[0].json()) == text_of(answers[1].json())


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", "no images"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0", "no files"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0", "no audio"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input.0.id", "'a' not found"),
        ({"input": [{"id": f"msg_{'0' * 36}"}]}, "input.0.id", "not found"),
        ({"input": [{"type": "mcp_call", "id": "a"}]}, "input.0", "types message"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}, "input", "'c'"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0", "web_search"),
        ({"input": "a", "tools": [{"type": "function", "name": "f"}]}, "tools", "no place for tools"),
        ({"input": "a", "tool_choice": "required"}, "tool_choice", "cannot be forced"),
        ({"input": "a", "background": True}, "background", "background"),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format", "json_schema"),
        ({"input": "a", "conversation": "c"}, "conversation", "not permitted"),
        ({"input": "a", "max_output_tokens": 15}, "max_output_tokens", "16"),
        ({"input": "a", "metadata": {"a": "b" * 513}}, "metadata.a", "512"),
        ({"input": []}, "input", "`input`"),
        ({"input": "a", "model": None}, "model", "model"),
        ({"input": "a", "previous_response_id": "resp_none"}, "previous_response_id", "not found"),
        ({"input": [{"type": "compaction", "encrypted_content": "a" * 99}]}, "input", "encrypted_content"),
        ({"input": "a " * 4000}, "input", "`truncation` is 'disabled'"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], param: str, words: str
) -> None:
    refused = await respond(client, status=400, **body)
    assert refused["error"]["param"] == param
    assert words in refused["error"]["message"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"\\ud800"', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"),
        ("NaN", "nan"),
        ("1e999", "inf"),
        ('{"a":' * 70 + "1" + "}" * 70, "64"),
        ("[" + "1," * 10_000 + "1]", "10000"),
    ],
)
@pytest.mark.parametrize("field", ["tools.0.parameters", "client_metadata"])
async def test_what_cannot_be_written_again_is_refused_wherever_any_json_may_stand(
    client: httpx.AsyncClient, field: str, value: str, words: str
) -> None:
    free = f'{{"a": {value}}}'
    tools = f'[{{"type": "function", "name": "f", "parameters": {free}}}]'
    own = f'"client_metadata": {free}' if field == "client_metadata" else f'"tools": {tools}, "tool_choice": "none"'
    model = await model_of(client)
    body = f'{{"model": "{model}", "input": "a", "max_output_tokens": 16, {own}}}'
    refused = await client.post("/v1/responses", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field
    assert words in refused.json()["error"]["message"]


async def test_what_exceeds_the_window_is_compressed_where_truncation_is_auto(client: httpx.AsyncClient) -> None:
    response = await respond(client, input="a keeper and a lamp " * 60, truncation="auto")
    assert response["compression"]["compressed_tokens"] > 0


async def test_reasoning_of_other_models_is_left_out(client: httpx.AsyncClient) -> None:
    user = {"role": "user", "content": "A keeper"}
    plain = await respond(client, input=[user])
    beside = await respond(client, input=[{"type": "reasoning", "id": "rs_1", "summary": []}, user])
    assert text_of(plain) == text_of(beside)
    assert plain["usage"]["input_tokens"] == beside["usage"]["input_tokens"]


async def test_turns_at_once_that_go_on_from_one_response_outlive_its_deletion(client: httpx.AsyncClient) -> None:
    first = (await respond(client, input="A keeper"))["id"]
    body = {"model": await model_of(client), "input": "Who?", "max_output_tokens": 16, "previous_response_id": first}
    path = f"/v1/responses/{first}"
    answers = await asyncio.gather(
        *(client.post("/v1/responses", json=body) for _ in range(6)), client.delete(path), client.delete(path)
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses[:6]) <= {200, 400}
    assert sorted(statuses[6:]) == [200, 404]
    assert (await client.post("/v1/responses", json=body)).json()["error"]["code"] == "previous_response_not_found"
