"""Files that are imported: whole, of this server's making, or refused; also while others delete."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.compressors import SegmentSummary
from server.core import chain
from server.core.documents.imported import require_equal
from server.core.documents.segments import Segments
from server.core.documents.store_calls import StoreCalls
from server.core.documents.stored_secret import StoredSecret
from server.core.documents.summaries import Summaries, Summary
from server.core.tenant import Tenant
from server.errors import InvalidRequest
from server.limits import MAX_METADATA_NAME, MAX_METADATA_VALUE
from server.metrics import Metrics
from server.store import EmbeddedStore
from server.store.codec import decode_notes, decode_segment, encode_segment
from tests.server.conftest import Serve
from tests.server.test_portable import compressed, exported


@pytest.mark.parametrize("num_deletes", [1, 5])
async def test_an_import_races_deletes(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, num_deletes: int
) -> None:
    """A summary that shared its segments was deleted between them and the manifest: 500."""
    summary = await compressed(client)
    data = await exported(client, summary["id"])
    stored = await client.services.summaries.of(Tenant()).get(summary["id"], param="id")  # type: ignore[attr-defined]
    await client.delete(f"/summaries/{summary['id']}")
    update, left = Summaries.update, [num_deletes]

    async def racing(self: Summaries, *args: Any, **kwargs: Any) -> Summary | None:
        if left[0]:
            left[0] -= 1
            assert await client.core.store.space(Tenant().account).delete(f"segment:{stored.manifest.segments[0]}")  # type: ignore[attr-defined]
        return await update(self, *args, **kwargs)

    monkeypatch.setattr(Summaries, "update", racing)
    response = await client.put(f"/summaries/{summary['id']}", content=data)
    assert response.status_code == (201 if num_deletes < 3 else 503), response.text
    assert (await client.get(f"/summaries/{summary['id']}")).status_code == (200 if num_deletes < 3 else 404)


async def test_segments_of_an_import_live_until_the_last_is_stored(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large file the first expired while a slow store took the rest, again and again: 503."""
    monkeypatch.setattr("server.core.documents.portable.IMPORTING_SECONDS", 0.4)
    summary = await compressed(client, text="A long text of many segments. " * 20)
    assert summary["segments"] > 10
    data = await exported(client, summary["id"])
    await client.delete(f"/summaries/{summary['id']}")
    put = Segments.put

    async def slowly(self: Segments, *args: Any, **kwargs: Any) -> None:
        await put(self, *args, **kwargs)
        await asyncio.sleep(0.1)

    monkeypatch.setattr(Segments, "put", slowly)
    response = await client.put(f"/summaries/{summary['id']}", content=data)
    assert response.status_code == 201, response.text
    asked = {"summary_ids": [summary["id"]], "prompt": "Who?", "max_tokens": 2}
    assert (await client.post("/generate", json=asked)).status_code == 200


def other_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    return (keys[1], *keys[1:])


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"metadata": {"title": "\ud800"}}, "metadata"),
        ({"metadata": {"\udfff": "a"}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a": "b" * (MAX_METADATA_VALUE + 1)}}, "metadata"),
        ({"metadata": {"a" * (MAX_METADATA_NAME + 1): "b"}}, "metadata"),
        ({"parent": "\ud800"}, "parent"),
        ({"parent": "0" * 40}, "parent"),
        ({"segments": other_keys}, "id"),
        ({"segments": lambda keys: keys[::-1]}, "id"),
        ({"segments": lambda keys: ("a", *keys[1:])}, "id"),
    ],
)
async def test_a_signed_file_says_no_more_than_a_request_may(
    client: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    """A lone surrogate in its metadata broke `GET /summaries` for everyone, lastingly."""
    made = await compressed(client)
    core, services = client.core, client.services  # type: ignore[attr-defined]
    summary = await services.summaries.of(Tenant()).get(made["id"], param="id")
    fields = {
        name: change(getattr(summary.manifest, name)) if callable(change) else change
        for name, change in changes.items()
    }
    forged = replace(summary, manifest=replace(summary.manifest, **fields))
    vectors = SegmentSummary(await services.summaries.of(Tenant()).vectors(summary))
    data = services.portable._encoded(forged, vectors, await services.portable._key(core.tenant))
    await client.delete(f"/summaries/{made['id']}")
    response = await client.put(f"/summaries/{made['id']}", content=data)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert (await client.get("/summaries")).status_code == 200


async def test_a_header_is_bounded_before_it_is_parsed(client: httpx.AsyncClient) -> None:
    header = json.dumps({"a": [[]] * 2_000_000}).encode()
    started = time.monotonic()
    response = await client.put(f"/summaries/{'0' * 40}", content=len(header).to_bytes(8, "little") + header)
    assert response.status_code == 400
    assert "the limit is 1048576" in response.json()["error"]["message"]
    assert time.monotonic() - started < 0.5


def test_a_key_that_comes_again_stands_for_the_same() -> None:
    one, equal, other = (SegmentSummary(torch.full((2, 3), value), torch.tensor([0, 1])) for value in (1.0, 1.0, 2.0))
    require_equal(["a", "b", "a"], [one, other, equal])
    for different in (other, SegmentSummary(one.vectors), SegmentSummary(one.vectors, torch.tensor([1, 0]))):
        with pytest.raises(InvalidRequest, match="one key for segments that differ"):
            require_equal(["a", "b", "a"], [one, other, different])


async def taken(serve: Serve, summary_id: str, data: bytes, **settings: Any) -> int:
    async with serve(**settings) as client:
        return (await client.put(f"/summaries/{summary_id}", content=data)).status_code


async def test_only_a_servers_own_files_are_taken(serve: Serve, tmp_path: Path) -> None:
    """With an empty salt anyone could compute the key that signs, from what `/info` tells."""
    async with serve() as client:
        summary = await compressed(client)
        data = await exported(client, summary["id"])
        await client.delete(f"/summaries/{summary['id']}")
        stored = client.services.portable  # type: ignore[attr-defined]
        fingerprint = (await client.get("/info")).json()["model"]["fingerprint"]
    joined = decode_segment(data, fingerprint=fingerprint)
    notes = decode_notes(data)
    manifest = notes["manifest"].encode()
    public = chain.derived_key(chain.root_key(fingerprint, ""), "export").encode()
    forged_notes = {**notes, "signature": stored._signature(summary["id"], manifest, joined, public)}
    forged = encode_segment(joined, fingerprint=fingerprint, notes=forged_notes)
    other = f"sqlite:{tmp_path}/other.sqlite3"
    assert await taken(serve, summary["id"], forged) == 400
    assert await taken(serve, summary["id"], data) == 201  # the store has kept its secret
    assert await taken(serve, summary["id"], data, store=other) == 400
    assert await taken(serve, summary["id"], data, store=other, export_secret="") == 400
    assert await taken(serve, summary["id"], forged, store=other, imports="any") == 201


async def test_servers_that_are_given_one_secret_take_each_others_files(serve: Serve, tmp_path: Path) -> None:
    async with serve(export_secret="a word") as client:
        summary = await compressed(client)
        data = await exported(client, summary["id"])
        assert "a word" not in repr(client.core.settings)  # type: ignore[attr-defined]
    other = f"sqlite:{tmp_path}/other.sqlite3"
    assert await taken(serve, summary["id"], data, store=other, export_secret="another word") == 400
    assert await taken(serve, summary["id"], data, store=other) == 400
    assert await taken(serve, summary["id"], data, store=other, export_secret="a word") == 201


async def test_replicas_that_start_together_make_one_secret(tmp_path: Path) -> None:
    stores = [await EmbeddedStore.open(tmp_path / "store.sqlite3") for _ in range(4)]
    made = await asyncio.gather(*(StoredSecret(store, StoreCalls(Metrics()), "export", None).get() for store in stores))
    assert len(set(made)) == 1
    assert len(made[0]) == 32
    for store in stores:
        await store.close()


@pytest.mark.parametrize("note", ["manifest", "signature"])
@pytest.mark.parametrize("text", ["\ud800", "é"])
async def test_notes_that_are_no_text(client: httpx.AsyncClient, note: str, text: str) -> None:
    """Half of a surrogate pair, or a signature that is not ASCII, was an error of the server's own."""
    summary = await compressed(client)
    data = await exported(client, summary["id"])
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"][note] = text
    changed = json.dumps(header).encode()
    body = len(changed).to_bytes(8, "little") + changed + data[8 + length :]
    assert (await client.put(f"/summaries/{summary['id']}", content=body)).status_code == 400
