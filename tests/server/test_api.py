"""The HTTP API over a real engine and a real store."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Serve

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6
GREEDY = {"temperature": 0, "max_tokens": 12}


async def compress(client: httpx.AsyncClient, text: str = DOCUMENT, **fields: Any) -> dict[str, Any]:
    response = await client.post("/compress", json={"text": text, **fields})
    assert response.status_code in (200, 201), response.text
    body: dict[str, Any] = response.json()
    return body


async def generate(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/generate", json={**GREEDY, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_compress_describes_what_it_stored(client: httpx.AsyncClient) -> None:
    response = await client.post("/compress", json={"text": DOCUMENT, "metadata": {"title": "Keeper"}})
    body = response.json()
    assert response.status_code == 201
    assert body["segments"] == -(-body["tokens"] // 16)
    assert body["vectors"] == 4 * body["segments"]
    assert body["compression_ratio"] == pytest.approx(body["tokens"] / body["vectors"], abs=0.01)
    assert body["cached_segments"] == 0
    stored = (await client.get(f"/summaries/{body['id']}")).json()
    assert stored["metadata"] == {"title": "Keeper"}
    assert sum(stored["segment_tokens"]) == stored["tokens"] == body["tokens"]
    assert stored["expires_in_seconds"] is None


async def test_an_equal_document_is_a_lookup(client: httpx.AsyncClient) -> None:
    first = await compress(client)
    response = await client.post("/compress", json={"text": DOCUMENT})
    assert response.status_code == 200
    assert response.json()["id"] == first["id"]
    assert response.json()["cached_segments"] == first["segments"]
    assert response.json()["timings"]["engine_seconds"] == 0


async def test_text_and_its_token_ids_are_one_document(client: httpx.AsyncClient) -> None:
    tokenizer = client.services.model.tokenizer  # type: ignore[attr-defined]
    by_ids = await client.post("/compress", json={"token_ids": tokenizer(DOCUMENT)["input_ids"]})
    assert by_ids.status_code == 201
    assert (await compress(client))["id"] == by_ids.json()["id"]


async def test_a_document_that_grew_computes_only_what_is_new(client: httpx.AsyncClient) -> None:
    ids = list(range(1, 33))
    await client.post("/compress", json={"token_ids": ids})
    grown = (await client.post("/compress", json={"token_ids": [*ids, 40, 41]})).json()
    assert (grown["segments"], grown["cached_segments"]) == (3, 2)


async def test_an_append_equals_the_whole_document(client: httpx.AsyncClient) -> None:
    ids = list(range(1, 60))
    head = (await client.post("/compress", json={"token_ids": ids[:32]})).json()
    appended = (await client.post("/compress", json={"token_ids": ids[32:], "parent": head["id"]})).json()
    whole = (await client.post("/compress", json={"token_ids": ids})).json()
    assert appended["id"] == whole["id"]
    assert (appended["segments"], appended["tokens"], appended["cached_segments"]) == (4, 59, 0)
    assert whole["cached_segments"] == 4


async def test_a_stored_summary_conditions_as_the_model_defines_it(client: httpx.AsyncClient) -> None:
    """Over HTTP and through the store the tokens are those of the reference path."""
    from tests.tiny import tiny_compressor  # the server's own copy runs the engine's attention

    model = tiny_compressor(max_positions=512)
    summary = await compress(client)
    body = await generate(client, summary_ids=[summary["id"]], prompt=" On Tuesday")
    ids = model.tokenizer(DOCUMENT, return_tensors="pt")["input_ids"]
    prompt = model.tokenizer(" On Tuesday", add_special_tokens=False, return_tensors="pt")["input_ids"]
    expected = model.generate(prompt, soft_prompt=model.compress(ids, segment_lengths=16), max_new_tokens=12)
    assert body["text"] == model.tokenizer.decode(expected[0, prompt.shape[1] :], skip_special_tokens=True)
    assert body["usage"]["summary_vectors"] == summary["vectors"]
    assert body["usage"]["summarised_tokens"] == summary["tokens"]
    assert body["usage"]["prompt_tokens"] == prompt.shape[1]


async def test_no_ids_is_plain_generation(client: httpx.AsyncClient) -> None:
    body = await generate(client, prompt="On Monday")
    assert body["usage"]["summary_vectors"] == 0
    assert body["finish_reason"] in ("stop", "length")


async def test_the_served_model_s_name_and_top_k_switched_off_change_nothing(client: httpx.AsyncClient) -> None:
    drawn = {"prompt": "On Monday", "temperature": 1.5, "seed": 2}
    plain = await generate(client, **drawn)
    for fields in ({"model": "tiny"}, {"top_k": -1}, {"top_k": 0}):
        assert (await generate(client, **drawn, **fields))["text"] == plain["text"]


async def test_a_stream_adds_up_to_the_whole(client: httpx.AsyncClient) -> None:
    summary = await compress(client)
    whole = await generate(client, summary_ids=[summary["id"]], prompt=" On")
    request = {**GREEDY, "summary_ids": [summary["id"]], "prompt": " On", "stream": True}
    async with client.stream("POST", "/generate", json=request) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert not any("finish_reason" in chunk for chunk in chunks[:-1])


async def test_a_seed_repeats_and_stop_strings_are_not_shown(client: httpx.AsyncClient) -> None:
    drawn = {"prompt": "The", "temperature": 1.2, "seed": 5, "max_tokens": 20}
    first, second = await generate(client, **drawn), await generate(client, **drawn)
    assert first["text"] == second["text"]
    stop = first["text"][4:6]
    stopped = await generate(client, **drawn, stop=stop)
    assert stopped["text"] == first["text"][: first["text"].index(stop)]
    assert stopped["finish_reason"] == "stop"


async def test_summaries_of_several_documents_are_fused_in_order(client: httpx.AsyncClient) -> None:
    one, other = await compress(client), await compress(client, "A book that keeps everything is a sea.")
    ids = [one["id"], other["id"]]
    forward = await client.post("/score", json={"summary_ids": ids, "prompt": "The", "continuations": [" fog"]})
    backward = await client.post("/score", json={"summary_ids": ids[::-1], "prompt": "The", "continuations": [" fog"]})
    assert forward.json()["usage"]["summary_vectors"] == one["vectors"] + other["vectors"]
    assert forward.json()["scores"][0]["logprob"] != backward.json()["scores"][0]["logprob"]


async def test_context_is_the_long_form_of_ids_and_prompt(client: httpx.AsyncClient) -> None:
    summary = await compress(client)
    short = await generate(client, summary_ids=[summary["id"]], prompt=" On Monday")
    parts = [{"summary_id": summary["id"]}, {"text": " On"}, {"text": " Monday"}]
    assert (await generate(client, context=parts))["text"] == short["text"]


async def test_a_text_before_a_summary_is_compressed_in_its_place(client: httpx.AsyncClient) -> None:
    one, other = await compress(client, "The stairs, the stove."), await compress(client)
    parts = [{"text": "The stairs, the stove."}, {"summary_id": other["id"]}, {"text": " On"}]
    by_text = await generate(client, context=parts)
    by_id = await generate(client, summary_ids=[one["id"], other["id"]], prompt=" On")
    assert by_text["text"] == by_id["text"]
    assert by_text["usage"] == by_id["usage"]


async def test_scores_are_the_log_probabilities_of_generated_tokens(client: httpx.AsyncClient) -> None:
    summary = await compress(client)
    conditions = {"summary_ids": [summary["id"]], "prompt": " On"}
    response = await client.post("/score", json={**conditions, "continuations": [" Monday", " Tuesday the fog"]})
    scores = response.json()["scores"]
    assert [score["index"] for score in scores] == [0, 1]
    for score in scores:
        assert score["logprob"] == pytest.approx(sum(score["token_logprobs"]))
        assert len(score["tokens"]) == len(score["token_ids"]) == len(score["token_logprobs"])
    assert "".join(scores[1]["tokens"]) == " Tuesday the fog"


async def test_delete_removes_what_no_other_summary_shares(client: httpx.AsyncClient) -> None:
    ids = list(range(1, 33))
    short = (await client.post("/compress", json={"token_ids": ids})).json()
    long = (await client.post("/compress", json={"token_ids": [*ids, 50, 51]})).json()
    assert (await client.delete(f"/summaries/{short['id']}")).json()["deleted"] is True
    assert (await client.get(f"/summaries/{short['id']}")).status_code == 404
    assert (await client.delete(f"/summaries/{short['id']}")).status_code == 404
    await generate(client, summary_ids=[long["id"]], prompt="A")
    await client.delete(f"/summaries/{long['id']}")
    again = (await client.post("/compress", json={"token_ids": ids})).json()
    assert again["cached_segments"] == 0


async def test_a_time_to_live_is_kept_and_only_lengthens(client: httpx.AsyncClient) -> None:
    summary = await compress(client, ttl_seconds=500)
    await compress(client, ttl_seconds=5)
    left = (await client.get(f"/summaries/{summary['id']}")).json()["expires_in_seconds"]
    assert 400 < left <= 500
    await compress(client)
    assert (await client.get(f"/summaries/{summary['id']}")).json()["expires_in_seconds"] is None


async def test_an_expired_summary_is_gone(client: httpx.AsyncClient) -> None:
    summary = await compress(client, ttl_seconds=0.05)
    await asyncio.sleep(0.1)
    response = await client.post("/generate", json={"summary_ids": [summary["id"]], "prompt": "A"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "summary_not_found")


async def test_salts_make_other_ids_and_other_models_are_refused(serve: Serve, checkpoint: Any, tmp_path: Any) -> None:
    from tests.tiny import tiny_compressor

    async with serve() as client:
        summary = await compress(client)
    async with serve(tenant_salt="other") as client:
        assert (await compress(client))["id"] != summary["id"]
    tiny_compressor(seed=5, max_positions=512).save_pretrained(tmp_path / "other")
    async with serve(model=str(tmp_path / "other")) as client:
        response = await client.post("/generate", json={"summary_ids": [summary["id"]], "prompt": "A"})
        assert (response.status_code, response.json()["error"]["code"]) == (409, "model_mismatch")


async def test_health_models_and_metrics(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/livez", "/readyz"):
        assert (await client.get(path)).json()["status"] == "ok"
        assert (await client.head(path)).status_code == 200
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["object"], model["meta"]["summary_length"], model["meta"]["segment_length"]) == ("model", 4, 16)
    await compress(client)
    await generate(client, prompt="A")
    text = (await client.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["autocompressor_requests_total", ("endpoint", "/compress"), ("status", "201")] == 1
    assert samples[("autocompressor_tokens_total", ("phase", "decode"))] > 0
    assert samples[("autocompressor_time_to_first_token_seconds_count",)] == 1


async def test_a_model_answers_to_its_other_names(serve: Serve) -> None:
    asked = {"messages": [{"role": "user", "content": "Who counts ships?"}], "max_tokens": 4, "temperature": 0}
    async with serve(aliases="gpt-ours, some/o3,") as client:
        listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["tiny", "gpt-ours", "some/o3"]
        answers = []
        for name in listed:
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
            answered = await client.post("/v1/chat/completions", json={"model": name, **asked})
            answers.append(answered.json()["choices"])
        assert answers[0] == answers[1] == answers[2]
        assert (await client.post("/generate", json={"model": "gpt-4", "prompt": "a"})).status_code == 404


async def test_openapi_describes_every_endpoint(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    expected = {"/compress", "/generate", "/score", "/rerank", "/search", "/ask", "/tokenize", "/detokenize", "/info"}
    expected |= {"/summaries", "/summaries/{summary_id}", "/summaries/{summary_id}/append"}
    expected |= {"/summaries/{summary_id}/segments"}
    expected |= {"/jobs/compress", "/jobs/{job_id}"}
    expected |= {"/v1/models", "/v1/models/{model_id}", "/v1/completions", "/v1/chat/completions"}
    response = "/v1/responses/{response_id}"
    expected |= {"/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"}
    expected |= {response, f"{response}/cancel", f"{response}/input_items"}
    expected |= {"/admin/usage", "/admin/keys/{name}/revoke"}
    assert expected | {"/health", "/livez", "/readyz", "/metrics"} == set(paths)
