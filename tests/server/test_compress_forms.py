"""Many documents in a request, files, progress, what is appended, and the list of what is stored."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_documents_are_answered_in_order(client: httpx.AsyncClient) -> None:
    texts = [f"{number} {DOCUMENT}" for number in range(5)]
    response = await client.post("/compress", json={"documents": [{"text": text} for text in texts]})
    assert response.status_code == 201, response.text
    ids = [each["id"] for each in response.json()["data"]]
    alone = [(await client.post("/compress", json={"text": text})) for text in texts]
    assert [each.status_code for each in alone] == [200] * 5
    assert ids == [each.json()["id"] for each in alone]
    again = await client.post("/compress", json={"documents": [{"text": text} for text in texts]})
    assert again.status_code == 200


async def test_more_documents_than_the_engine_takes_requests(serve: Serve) -> None:
    async with serve(max_requests=2) as client:
        documents = [{"text": f"{number} {DOCUMENT}"} for number in range(12)]
        both = await asyncio.gather(
            *(client.post("/compress", json={"documents": part}) for part in (documents[:6], documents[6:]))
        )
    assert [each.status_code for each in both] == [201, 201]


async def test_a_bad_document_changes_nothing(client: httpx.AsyncClient) -> None:
    good = {"text": DOCUMENT}
    for bad, param in [({"text": ""}, "text"), ({"token_ids": [10**6]}, "token_ids")]:
        response = await client.post("/compress", json={"documents": [good, bad]})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == f"documents.1.{param}"
    assert (await client.get("/summaries")).json()["data"] == []


@pytest.mark.parametrize("body", [{}, {"text": "a", "documents": [{"text": "b"}]}, {"documents": []}])
async def test_one_form_of_documents(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.post("/compress", json=body)).status_code == 422


async def test_progress_of_every_segment(client: httpx.AsyncClient) -> None:
    response = await client.post("/compress", json={"text": DOCUMENT, "stream": True})
    *progress, result = events_of(response)
    total = result["segments"]
    assert [each["segments"] for each in progress] == [
        {"done": done, "total": total, "cached": 0} for done in range(total + 1)
    ]
    assert progress[-1]["tokens"] == result["tokens"]
    assert progress[-1]["vectors"] == result["vectors"]
    assert result["receipt"]["cache"] == "computed"
    longer = events_of(await client.post("/compress", json={"text": DOCUMENT + "More. " * 20, "stream": True}))
    assert longer[0]["segments"]["cached"] > 0
    only, again = events_of(await client.post("/compress", json={"text": DOCUMENT, "stream": True}))
    assert only["segments"] == {"done": total, "total": total, "cached": total}
    assert again["id"] == result["id"]


async def test_progress_of_several_documents(client: httpx.AsyncClient) -> None:
    documents = [{"text": f"{number} {DOCUMENT}"} for number in range(3)]
    *progress, result = events_of(await client.post("/compress", json={"documents": documents, "stream": True}))
    total = sum(each["segments"] for each in result["data"])
    done = [each["segments"]["done"] for each in progress]
    assert done == sorted(done)
    assert progress[-1]["segments"] == {"done": total, "total": total, "cached": 0}


async def test_two_who_stream_one_document_both_hear_of_it(client: httpx.AsyncClient) -> None:
    body = {"text": DOCUMENT, "stream": True}
    both = await asyncio.gather(*(client.post("/compress", json=body) for _ in range(2)))
    for response in both:
        *progress, result = events_of(response)
        assert progress[-1]["segments"]["done"] == result["segments"]


async def test_a_refusal_of_a_stream_is_a_status(client: httpx.AsyncClient) -> None:
    assert (await client.post("/compress", json={"text": "", "stream": True})).status_code == 400


async def test_append_is_compress_with_a_parent(client: httpx.AsyncClient) -> None:
    parent = (await client.post("/compress", json={"text": DOCUMENT})).json()
    appended = await client.post(f"/summaries/{parent['id']}/append", json={"text": " And the lamp was lit."})
    assert appended.status_code == 201
    assert appended.json()["parent"] == parent["id"]
    same = await client.post("/compress", json={"text": " And the lamp was lit.", "parent": parent["id"]})
    assert (same.status_code, same.json()["id"]) == (200, appended.json()["id"])
    assert (await client.post(f"/summaries/{'0' * 40}/append", json={"text": "a"})).status_code == 404


async def test_an_uploaded_file_is_its_text(client: httpx.AsyncClient) -> None:
    uploaded = await client.post("/compress", files={"file": ("a.txt", DOCUMENT.encode())}, data={"ttl_seconds": "60"})
    assert uploaded.status_code == 201, uploaded.text
    same = await client.post("/compress", json={"text": DOCUMENT})
    assert (same.status_code, same.json()["id"]) == (200, uploaded.json()["id"])


@pytest.mark.parametrize(
    ("data", "fields", "status"),
    [(b"\xff\xfe", {}, 400), (b"", {}, 400), (b"a", {"ttl_seconds": "-1"}, 422), (b"a", {"unknown": "1"}, 422)],
)
async def test_a_bad_upload(client: httpx.AsyncClient, data: bytes, fields: dict[str, str], status: int) -> None:
    response = await client.post("/compress", files={"file": ("a.txt", data)}, data=fields)
    assert response.status_code == status, response.text


async def test_an_upload_with_metadata(client: httpx.AsyncClient) -> None:
    files = {"file": ("a.txt", DOCUMENT.encode())}
    uploaded = await client.post("/compress", files=files, data={"metadata": '{"source": "diary"}'})
    assert uploaded.json()["metadata"] == {"source": "diary"}
    assert (await client.post("/compress", files=files, data={"metadata": "[]"})).status_code == 422


async def test_several_files_with_metadata_are_answered_as_documents_are(client: httpx.AsyncClient) -> None:
    texts = [f"{number} {DOCUMENT}" for number in range(3)]
    files = [("file", (f"{number}.txt", text.encode())) for number, text in enumerate(texts)]
    named = [{"source": f"book {number}"} for number in range(3)]
    data = {"metadata": [json.dumps(each) for each in named], "keep_text": "true"}
    uploaded = await client.post("/compress", files=files, data=data)
    assert uploaded.status_code == 201, uploaded.text
    documents = [{"text": text, "metadata": each} for text, each in zip(texts, named, strict=True)]
    same = await client.post("/compress", json={"documents": documents, "keep_text": True})
    assert same.status_code == 200

    def told(answer: httpx.Response) -> list[Any]:
        assert answer.json()["object"] == "list"
        return [(one["id"], one["metadata"], one["has_text"]) for one in answer.json()["data"]]

    assert told(uploaded) == told(same)
    assert [metadata for _, metadata, _ in told(uploaded)] == named
    streamed = await client.post("/compress", files=files, data={"stream": "true"})
    assert '"object":"list"' in streamed.text


@pytest.mark.parametrize(
    ("texts", "fields", "param", "said"),
    [
        ([b"one", b"two"], {"metadata": ["{}"]}, "metadata", "2 files and 1 times metadata"),
        ([b"one"], {"metadata": ["{}", "{}"]}, "metadata", "1 files and 2 times metadata"),
        ([b"one", b"two"], {"parent": "0" * 40}, "parent", "a parent is continued by one"),
        ([b"one", b""], {}, "file.1", "0 bytes"),
        ([b"one", b"\xff"], {}, "file.1", "not UTF-8"),
        ([b"one", "\ufeff".encode()], {}, "file.1", "0 tokens"),
        ([b"a"] * 1001, {}, None, "Maximum number of files is 1000"),
    ],
)
async def test_what_several_files_are_refused_for(
    client: httpx.AsyncClient, texts: list[bytes], fields: dict[str, Any], param: str | None, said: str
) -> None:
    files = [("file", ("a.txt", text)) for text in texts]
    response = await client.post("/compress", files=files, data=fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert (await client.get("/summaries")).json()["data"] == []


async def test_a_byte_order_mark_is_no_text(client: httpx.AsyncClient) -> None:
    """A file that was saved with one was another document, some tokens longer."""
    plain = (await client.post("/compress", json={"text": DOCUMENT})).json()["id"]
    marked = "\ufeff" + DOCUMENT
    answers = [
        await client.post("/compress", json={"text": marked}),
        await client.post("/compress", json={"documents": [{"text": marked}]}),
        await client.post("/compress", files={"file": DOCUMENT.encode("utf-8-sig")}),
    ]
    bodies = [answer.json() for answer in answers]
    assert [body["data"][0]["id"] if "data" in body else body["id"] for body in bodies] == [plain] * 3
    ranked = await client.post("/rerank", json={"query": "a", "documents": [marked]})
    assert ranked.json()["results"][0]["summary_id"] == plain
    empty = await client.post("/compress", files={"file": "".encode("utf-8-sig")})
    assert (empty.status_code, empty.json()["error"]["code"]) == (400, "invalid_request")


async def test_an_upload_without_a_file(client: httpx.AsyncClient) -> None:
    response = await client.post("/compress", files={"other": ("a.txt", b"a")})
    assert response.status_code == 422


async def test_summaries_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/compress", json={"text": f"{n} {DOCUMENT}"})).json()["id"] for n in range(5)]
    await client.post("/compress", json={"text": f"0 {DOCUMENT}", "metadata": {"title": "first"}})
    first = (await client.get("/summaries", params={"limit": 3})).json()
    assert [each["id"] for each in first["data"]] == ids[:1:-1]
    assert first["has_more"]
    rest = (await client.get("/summaries", params={"limit": 3, "after": ids[2]})).json()
    assert [each["id"] for each in rest["data"]] == ids[1::-1]
    assert not rest["has_more"]
    assert rest["data"][-1]["metadata"] == {"title": "first"}
    await client.delete(f"/summaries/{ids[2]}")
    after_gone = (await client.get("/summaries", params={"limit": 3, "after": ids[2]})).json()
    assert [each["id"] for each in after_gone["data"]] == ids[1::-1]
    assert (await client.get("/summaries", params={"after": "0" * 40})).status_code == 404
    assert (await client.get("/summaries", params={"limit": 0})).status_code == 422


async def test_a_tenant_sees_its_own_list(serve: Serve) -> None:
    async with serve(tenant_salt="one") as client:
        await client.post("/compress", json={"text": DOCUMENT})
        assert len((await client.get("/summaries")).json()["data"]) == 1
    async with serve(tenant_salt="other") as client:
        assert (await client.get("/summaries")).json()["data"] == []


async def test_receipts_and_headers(client: httpx.AsyncClient) -> None:
    made = await client.post("/compress", json={"text": DOCUMENT})
    found = await client.post("/compress", json={"text": DOCUMENT})
    assert made.json()["receipt"]["cache"] == "computed"
    assert made.json()["receipt"]["compute_seconds"] > 0
    assert found.json()["receipt"] == {
        "prefill_tokens_saved": made.json()["tokens"],
        "cache": "store",
        "thinned_vectors": 0,
        "expanded": [],
        "queue_seconds": 0.0,
        "compute_seconds": 0.0,
    }
    asked = {"summary_ids": [made.json()["id"]], "prompt": "Who?", "max_tokens": 4}
    answers = [await client.post("/generate", json=asked) for _ in range(2)]
    assert [each.json()["receipt"]["cache"] for each in answers] == ["store", "memory"]
    scored = await client.post(
        "/score", json={"summary_ids": [made.json()["id"]], "prompt": "W", "continuations": ["a"]}
    )
    assert scored.json()["receipt"]["cache"] == "memory"
    streamed = await client.post("/generate", json={**asked, "stream": True})
    assert events_of(streamed)[-1]["receipt"]["cache"] == "memory"
    for response in (made, *answers, scored, streamed):
        names = ("x-queue-time", "x-inference-time", "x-total-time")
        queued, worked, total = (float(response.headers[name]) for name in names)
        assert 0 <= queued + worked <= total + 1e-3
