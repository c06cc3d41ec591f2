"""Files that are imported: whole, of this server's making, or refused; also while others delete."""

import httpx
import pytest

from server.core.documents.summaries import Summaries, Summary
from tests.server.test_portable import compressed, exported


@pytest.mark.parametrize("num_deletes", [1, 5])
async def test_an_import_races_deletes(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, num_deletes: int
) -> None:
    """A summary that shared its segments was deleted between them and the manifest: 500."""
    summary = await compressed(client)
    data = await exported(client, summary["id"])
    await client.delete(f"/summaries/{summary['id']}")
    put, left = Summaries.put, [num_deletes]

    async def racing(self: Summaries, summary: Summary, *, ttl_seconds: float | None) -> None:
        if left[0]:
            left[0] -= 1
            assert await client.core.store.delete(f"segment:{summary.manifest.segments[0]}")  # type: ignore[attr-defined]
        await put(self, summary, ttl_seconds=ttl_seconds)

    monkeypatch.setattr(Summaries, "put", racing)
    response = await client.put(f"/summaries/{summary['id']}", content=data)
    assert response.status_code == (201 if num_deletes < 3 else 503), response.text
    assert (await client.get(f"/summaries/{summary['id']}")).status_code == (200 if num_deletes < 3 else 404)
