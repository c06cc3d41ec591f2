"""A server whose store is sealed: what lies in it tells nothing of texts, and other keys read nothing."""

from pathlib import Path
from typing import Any

import httpx

from tests.server.conftest import Serve

TEXT = "The heron stood in the canary light. " * 6
FIRST, SECOND = "first" * 8, "second" * 8


async def compress(client: httpx.AsyncClient) -> dict[str, Any]:
    body = {"text": TEXT, "keep_text": True, "metadata": {"title": "canary title"}}
    return dict((await client.post("/compress", json=body)).json())


async def scores(client: httpx.AsyncClient, summary_id: str) -> Any:
    asked = {"summary_ids": [summary_id], "prompt": "Who?", "continuations": [" The heron."]}
    return (await client.post("/score", json=asked)).json()["scores"]


def lies_in(folder: Path, *words: bytes) -> list[bytes]:
    whole = b"".join(file.read_bytes() for file in folder.glob("store.sqlite3*"))
    return [word for word in words if word in whole]


async def test_what_is_stored_is_sealed_and_read_with_its_keys_alone(serve: Serve, tmp_path: Path) -> None:
    async with serve(store_keys=FIRST) as client:
        made, model = await compress(client), client.services.model  # type: ignore[attr-defined]
        first = await scores(client, made["id"])
        await client.post("/v1/responses", json={"model": model.name, "input": "canary words", "max_output_tokens": 16})
        exported = await client.get(f"/summaries/{made['id']}", params={"format": "safetensors"})
        assert lies_in(tmp_path, b"canary", b"token_ids", b"vectors", model.fingerprint.encode()) == []
        assert lies_in(tmp_path, made["id"].encode()) == [made["id"].encode()]  # ids are
    async with serve(store_keys=f"{SECOND}, {FIRST}") as client:  # as while keys are changed
        assert await scores(client, made["id"]) == first
        assert (await compress(client))["cached_segments"] == made["segments"]
    for keys in (None, SECOND):
        async with serve(store_keys=keys) as client:
            assert (await client.get(f"/summaries/{made['id']}")).status_code == 404  # damaged, as far as it can tell
            assert (await client.get("/summaries")).json()["data"] == []
            # nor is a secret made of what cannot be read, or another put in its place
            assert (await client.put(f"/summaries/{made['id']}", content=exported.content)).status_code == 500
            if keys:
                again = await compress(client)
                assert (again["id"], again["cached_segments"]) == (made["id"], 0)
                assert await scores(client, made["id"]) == first
