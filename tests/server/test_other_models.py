"""Summaries that another model made: refused, and the field that named them is told."""

from typing import Any

import httpx
import pytest

from server.core.tenant import Tenant
from server.store import Entry
from server.store.codec import Manifest, encode_manifest

FOREIGN = "f" * 40
STORED = {"summary_id": FOREIGN}
NAMED = [
    ("GET", f"/summaries/{FOREIGN}", None, "id"),
    ("POST", "/generate", {"summary_ids": [FOREIGN], "prompt": "a"}, "summary_ids"),
    ("POST", "/generate", {"context": [STORED, {"text": "a"}]}, "context"),
    ("POST", "/compress", {"text": "a", "parent": FOREIGN}, "parent"),
    ("POST", "/rerank", {"query": "a", "documents": ["a passage", STORED]}, "documents.1"),
]


@pytest.mark.parametrize(("method", "path", "body", "param"), NAMED)
async def test_a_summary_of_another_model_names_its_field(
    client: httpx.AsyncClient, method: str, path: str, body: Any, param: str
) -> None:
    """The error said `param: null`, so nobody could tell which of many ids it was."""
    manifest = Manifest(fingerprint="another", segments=("a" * 40,), segment_tokens=(1,), vectors=1, created=0.0)
    store = client.core.store.space(Tenant().account)  # type: ignore[attr-defined]
    segment = Entry(f"segment:{'a' * 40}", b"")
    await store.put_many([segment, Entry(f"manifest:{FOREIGN}", encode_manifest(manifest), (segment.key,))])
    response = await client.request(method, path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (409, "model_mismatch", param)
