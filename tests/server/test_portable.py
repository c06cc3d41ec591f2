"""Summaries as files, and texts as token ids."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from model.compressors import SegmentSummary
from server.store.codec import decode_notes, decode_segment, encode_segment
from tests.server.conftest import Serve

DOCUMENT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 6
GREEDY = {"prompt": "Who?", "temperature": 0, "max_tokens": 12, "ignore_eos": True}


async def compressed(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = (await client.post("/compress", json={"text": DOCUMENT, **fields})).json()
    return body


async def exported(client: httpx.AsyncClient, summary_id: str) -> bytes:
    response = await client.get(f"/summaries/{summary_id}", params={"format": "safetensors"})
    assert response.status_code == 200
    return response.content


async def test_an_export_is_the_same_summary_on_another_server(serve: Serve, tmp_path: Path) -> None:
    async with serve(export_secret="a word") as client:
        summary = await compressed(client, metadata={"title": "Keeper"})
        data = await exported(client, summary["id"])
        answer = (await client.post("/generate", json={"summary_ids": [summary["id"]], **GREEDY})).json()["text"]
    assert safetensors.torch.load(data)["vectors"].shape[0] == summary["vectors"]
    async with serve(store=f"sqlite:{tmp_path}/other.sqlite3", export_secret="a word") as other:
        put = await other.put(f"/summaries/{summary['id']}", content=data, params={"ttl_seconds": 600})
        assert put.status_code == 201, put.text
        assert put.json()["metadata"] == {"title": "Keeper"}
        stored = (await other.get(f"/summaries/{summary['id']}")).json()
        assert 590 < stored["expires_in_seconds"] <= 600
        asked = await other.post("/generate", json={"summary_ids": [summary["id"]], **GREEDY})
        assert asked.json()["text"] == answer
        assert (await compressed(other))["cached_segments"] == summary["segments"]
        assert [each["id"] for each in (await other.get("/summaries")).json()["data"]] == [summary["id"]]
        assert (await other.put(f"/summaries/{summary['id']}", content=data)).status_code == 200


def changed(data: bytes, **notes: str) -> bytes:
    metadata = decode_notes(data)
    vectors = decode_segment(data, fingerprint=metadata["fingerprint"])
    return encode_segment(vectors, fingerprint=metadata["fingerprint"], notes={**metadata, **notes})


async def test_bad_files_are_refused(client: httpx.AsyncClient) -> None:
    summary = await compressed(client)
    data = await exported(client, summary["id"])
    await client.delete(f"/summaries/{summary['id']}")
    fingerprint = decode_notes(data)["fingerprint"]
    vectors = decode_segment(data, fingerprint=fingerprint).vectors
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    cases = [
        (b"", 400),
        (b"\x00" * 100, 400),
        (data[:-4], 400),
        (flipped, 400),
        (safetensors.torch.save({"vectors": vectors}), 400),
        (safetensors.torch.save({"vectors": vectors.fill_(torch.nan)}), 400),
        (changed(data, signature="0"), 400),
        (changed(data, manifest="{}"), 400),
        (
            encode_segment(SegmentSummary(vectors.nan_to_num()[1:]), fingerprint=fingerprint, notes=decode_notes(data)),
            400,
        ),
        (encode_segment(SegmentSummary(vectors.nan_to_num()), fingerprint="other", notes=decode_notes(data)), 409),
    ]
    for body, status in cases:
        response = await client.put(f"/summaries/{summary['id']}", content=body)
        assert response.status_code == status, response.text
    noise = (10**6).to_bytes(8, "little") + bytes(range(128, 256)) * 8000
    for body, said in (
        (noise, "its description cannot be read"),
        (b"\xff" * 9, f"the header has {2**64 - 1} bytes; the limit is 1048576"),
        (b"junk", "the limit is 1048576"),
    ):
        message = (await client.put(f"/summaries/{summary['id']}", content=body)).json()["error"]["message"]
        assert "not a record of summary vectors: " in message
        assert message.endswith(said)
        assert len(message) < 150
    assert (await client.put(f"/summaries/{'0' * 40}", content=data)).json()["error"]["param"] == "id"
    assert (await client.get("/summaries")).json()["data"] == []


async def test_a_file_of_another_tenant_is_refused(serve: Serve) -> None:
    async with serve(tenant_salt="one") as client:
        summary = await compressed(client)
        data = await exported(client, summary["id"])
    async with serve(tenant_salt="other") as client:
        response = await client.put(f"/summaries/{summary['id']}", content=data)
        assert "tenant_salt" in response.json()["error"]["message"]


async def test_prompt_embeds_are_what_vllm_loads(client: httpx.AsyncClient) -> None:
    summary = await compressed(client)
    response = await client.get(f"/summaries/{summary['id']}", params={"format": "prompt_embeds"})
    tensor = torch.load(io.BytesIO(base64.b64decode(response.content, validate=True)), weights_only=True)
    info = (await client.get("/info")).json()
    assert tensor.shape == (summary["vectors"], info["model"]["hidden_size"])
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("format", ["safetensors", "prompt_embeds"])
async def test_an_unknown_summary_has_no_file(client: httpx.AsyncClient, format: str) -> None:  # noqa: A002
    response = await client.get(f"/summaries/{'0' * 40}", params={"format": format})
    assert response.status_code == 404


async def test_tokens_and_back(client: httpx.AsyncClient) -> None:
    body = (await client.post("/tokenize", json={"text": DOCUMENT, "add_special_tokens": False})).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert (await client.post("/detokenize", json={"tokens": body["tokens"]})).json() == {"text": DOCUMENT}
    info = (await client.get("/info")).json()
    assert body["max_model_len"] == info["limits"]["max_sequence_tokens"]
    unknown = await client.post("/detokenize", json={"tokens": [10**6]})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "tokens")
    assert (await client.post("/detokenize", json={"tokens": []})).json() == {"text": ""}


async def test_info_has_limits_and_no_secrets(serve: Serve) -> None:
    async with serve(tenant_salt="secret", max_requests=40) as client:
        response = await client.get("/info")
    assert response.json()["limits"]["max_requests"] == 40
    assert response.json()["limits"]["max_documents_together"] == 10
    assert "secret" not in response.text
    assert "sqlite" not in response.text
