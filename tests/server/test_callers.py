"""Callers that send keys of their own beside those who send none: one text, and whose metadata it has."""

from typing import Any

import httpx
import pytest

from server.core.tenant import Tenant
from server.limits import MAX_METADATA

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. "
KEEPER = {"Authorization": "Bearer keeper"}
STRANGER = {"Authorization": "Bearer stranger"}


async def compressed(client: httpx.AsyncClient, headers: dict[str, str], **metadata: str) -> dict[str, Any]:
    answer = await client.post("/compress", json={"text": TEXT, "metadata": metadata}, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("other", [STRANGER, {}], ids=["another key", "no key"])
async def test_whoever_sends_the_same_text_neither_reads_nor_changes_nor_fills_its_metadata(
    client: httpx.AsyncClient, other: dict[str, str]
) -> None:
    own = await compressed(client, KEEPER, title="The log", shelf="3")
    told = await compressed(client, other, title="Mine", **{f"k{number}": "" for number in range(MAX_METADATA - 1)})
    assert (told["id"] != own["id"], told["cached_segments"], "shelf" in told["metadata"]) == (True, 0, False)
    told_of = [await client.get(f"/summaries/{own['id']}", headers=headers) for headers in (KEEPER, other)]
    assert [answer.status_code for answer in told_of] == [200, 404]
    assert ("among this bearer token's" in told_of[1].text) is bool(other)  # a newcomer's clients may send any key
    assert told_of[0].json()["metadata"] == {"title": "The log", "shelf": "3"}
    listed = [(await client.get("/summaries", headers=headers)).json()["data"] for headers in (KEEPER, other)]
    assert [[one["id"] for one in each] for each in listed] == [[own["id"]], [told["id"]]]
    deleted = [await client.delete(f"/summaries/{told['id']}", headers=headers) for headers in (KEEPER, other)]
    assert [answer.status_code for answer in deleted] == [404, 200]
    more = await compressed(client, KEEPER, shelf="4", row="1")
    assert (more["id"], more["metadata"]) == (own["id"], {"title": "The log", "shelf": "4", "row": "1"})


@pytest.mark.parametrize("other", [STRANGER, {}], ids=["another key", "no key"])
async def test_an_id_is_of_no_use_to_another_caller(client: httpx.AsyncClient, other: dict[str, str]) -> None:
    """Whoever had it read, appended to and deleted what was under it."""
    own = (await compressed(client, KEEPER))["id"]
    content = [{"type": "summary", "id": own}]
    asked: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", f"/summaries/{own}", None),
        ("GET", f"/summaries/{own}?format=safetensors", None),
        ("GET", f"/summaries/{own}/segments", None),
        ("DELETE", f"/summaries/{own}", None),
        ("POST", f"/summaries/{own}/append", {"text": "More."}),
        ("POST", "/compress", {"text": "More.", "parent": own}),
        ("POST", "/generate", {"summary_ids": [own], "prompt": "Who?", "max_tokens": 1}),
        ("POST", "/score", {"summary_ids": [own], "prompt": "Who?", "continuations": ["he"]}),
        ("POST", "/rerank", {"query": "Who?", "documents": [{"summary_id": own}]}),
        ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": content}], "max_tokens": 1}),
    ]
    for method, path, body in asked:
        answer = await client.request(method, path, json=body, headers=other)
        assert (path, answer.status_code) == (path, 404), answer.text
    assert (await client.get("/summaries", headers=other)).json()["data"] == []
    for method, path, body in [*asked[4:], *asked[:4]]:
        answer = await client.request(method, path, json=body, headers=KEEPER)
        assert answer.status_code in (200, 201), (path, answer.text)


async def test_a_key_is_a_bearer_token(client: httpx.AsyncClient) -> None:
    shared = (await compressed(client, {}))["id"]
    spelt = [{"Authorization": f"{scheme} keeper"} for scheme in ("Bearer", "bearer", "Bearer ")]
    assert len({(await compressed(client, headers))["id"] for headers in spelt} - {shared}) == 1
    for header in ("Basic a2VlcGVy", "Bearer", "Bearer ", "keeper"):
        assert (await compressed(client, {"Authorization": header}))["id"] == shared


async def test_one_idempotency_key_of_two_callers_is_two_jobs(client: httpx.AsyncClient) -> None:
    answers = [
        await client.post("/jobs/compress", json={"text": TEXT}, headers=headers | {"Idempotency-Key": "first"})
        for headers in (KEEPER, STRANGER)
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_no_key_is_another_salt() -> None:
    tenants = [Tenant(), Tenant("a"), Tenant().of_key("a"), Tenant("a").of_key("a"), Tenant("a").of_key("b")]
    assert len({tenant.root("model") for tenant in tenants}) == len(tenants)
    assert Tenant("a").of_key("b") == Tenant("a").of_key("b")
