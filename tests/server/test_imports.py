"""Files that are imported: whole, of this server's making, or refused; also while others delete."""

import json
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch

from model.compressors import SegmentSummary
from server.core.documents.imported import require_equal
from server.core.documents.summaries import Summaries, Summary
from server.errors import InvalidRequest
from server.limits import MAX_METADATA_NAME, MAX_METADATA_VALUE
from tests.server.test_portable import compressed, exported


@pytest.mark.parametrize("num_deletes", [1, 5])
async def test_an_import_races_deletes(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, num_deletes: int
) -> None:
    """A summary that shared its segments was deleted between them and the manifest: 500."""
    summary = await compressed(client)
    data = await exported(client, summary["id"])
    stored = await client.services.summaries.get(summary["id"], param="id")  # type: ignore[attr-defined]
    await client.delete(f"/summaries/{summary['id']}")
    update, left = Summaries.update, [num_deletes]

    async def racing(self: Summaries, *args: Any, **kwargs: Any) -> Summary | None:
        if left[0]:
            left[0] -= 1
            assert await client.core.store.delete(f"segment:{stored.manifest.segments[0]}")  # type: ignore[attr-defined]
        return await update(self, *args, **kwargs)

    monkeypatch.setattr(Summaries, "update", racing)
    response = await client.put(f"/summaries/{summary['id']}", content=data)
    assert response.status_code == (201 if num_deletes < 3 else 503), response.text
    assert (await client.get(f"/summaries/{summary['id']}")).status_code == (200 if num_deletes < 3 else 404)


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
    summary = await services.summaries.get(made["id"], param="id")
    fields = {
        name: change(getattr(summary.manifest, name)) if callable(change) else change
        for name, change in changes.items()
    }
    forged = replace(summary, manifest=replace(summary.manifest, **fields))
    vectors = SegmentSummary(await services.summaries.vectors(summary))
    data = services.portable._encoded(forged, vectors, core.tenant)
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
