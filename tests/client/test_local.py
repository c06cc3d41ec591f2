"""The client without a server gives what the server's client does: results, errors, streams."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from autocompressor import AsyncClient, AutocompressorError
from server.cli.commands import documents
from server.cli.local import LocalClient
from server.core.build import open_core
from server.http.app import create_app
from server.settings import Settings

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 3
TIMES = {"timings", "receipt", "id"}  # of a reply: what differs from call to call
Clients = tuple[LocalClient, AsyncClient]


@pytest.fixture
async def clients(tiny_checkpoint: Path, tmp_path: Path) -> AsyncIterator[Clients]:
    """Both, of one core."""
    settings = Settings(
        model=str(tiny_checkpoint), store=f"sqlite:{tmp_path}/store.sqlite3", dtype="float32", allowed_hosts="server"
    )
    async with open_core(settings) as core:
        transport = httpx.ASGITransport(create_app(core))
        async with AsyncClient("http://server", transport=transport) as remote:
            yield LocalClient(core), remote


async def of_both(clients: Clients, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result, after it was seen to be the same."""
    local, remote = [await call(client) for client in clients]
    shown = [{name: value for name, value in asdict(each).items() if name not in TIMES} for each in (local, remote)]
    assert shown[0] == shown[1]
    return local


async def test_results_are_the_same(clients: Clients) -> None:
    local, _ = clients
    made = await local.compress(TEXT, metadata={"file": "a.txt"}, keep_text=True, measure=True)
    assert not made.was_stored
    stored = await of_both(clients, lambda client: client.compress(TEXT, keep_text=True, measure=True))
    assert (stored.id, stored.was_stored, stored.metadata) == (made.id, True, {"file": "a.txt"})
    await local.compress(" More.", parent=made.id)
    await of_both(clients, lambda client: client.compress(" More.", parent=made.id, ttl_seconds=60.0))
    ids = [made.id]
    asked: dict[str, Any] = {"summary_ids": ids, "max_tokens": 5, "temperature": 0.8, "seed": 3, "stop": ["zz"]}
    generated = await of_both(clients, lambda client: client.generate("The", **asked))
    chunks = [[chunk async for chunk in client.stream("The", **asked)] for client in clients]
    assert ["".join(chunk.text for chunk in each) for each in chunks] == [generated.text] * 2
    assert [each[-1].finish_reason for each in chunks] == [generated.finish_reason] * 2
    read: dict[str, Any] = {"summary_ids": ids, "expand": 1, "max_tokens": 3, "temperature": 0}
    await of_both(clients, lambda client: client.generate("The", **read))
    await of_both(clients, lambda client: client.score([" ships", " fog"], prompt="no", summary_ids=ids))
    passages = ["fog and ships", {"summary_id": made.id}, "a lamp"]
    rankings = [await client.rerank("ships", passages, top_n=2) for client in clients]
    orders = [[(one.index, one.summary_id) for one in ranking.results] for ranking in rankings]
    assert orders[0] == orders[1]
    # what is scored beside others rounds otherwise
    scores = [[one.relevance_score for one in ranking.results] for ranking in rankings]
    assert scores[0] == pytest.approx(scores[1])


async def test_the_store_is_the_same(clients: Clients) -> None:
    local, remote = clients
    first, second = [await local.compress(f"{number} {TEXT}") for number in range(2)]
    page = await of_both(clients, lambda client: client.list_summaries(limit=1))
    assert ([each.id for each in page.data], page.has_more) == ([second.id], True)
    await of_both(clients, lambda client: client.list_summaries(limit=1, after=second.id))
    await of_both(clients, lambda client: client.get_summary(first.id))
    asked: dict[str, Any] = {"format": "prompt_embeds"}
    assert await local.export_summary(first.id, **asked) == await remote.export_summary(first.id, **asked)
    data = await local.export_summary(first.id)
    assert len(data) == len(await remote.export_summary(first.id))  # the order of a file's notes is not fixed
    await local.delete_summary(first.id)
    assert (await local.import_summary(first.id, data)).id == first.id
    await remote.delete_summary(first.id)


async def test_progress_is_told(clients: Clients) -> None:
    local, _ = clients
    heard: list[tuple[int, int]] = []
    made = await local.compress(TEXT, progress=lambda now: heard.append((now.segments_done, now.segments_total)))
    assert heard[0] == (0, made.segments)
    assert heard[-1] == (made.segments, made.segments)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.generate("The", summary_ids=["0" * 40]),
        lambda client: client.generate("", summary_ids=[]),
        lambda client: client.generate("The", max_tokens=100_000),
        lambda client: client.score([" a"], prompt="b", expand=1),
        lambda client: client.compress(""),
        lambda client: client.compress("a", parent="0" * 40),
        lambda client: client.rerank("q", [""]),
        lambda client: client.get_summary("nothing"),
        lambda client: client.delete_summary("0" * 40),
        lambda client: client.import_summary("0" * 40, b"no file"),
    ],
)
async def test_errors_are_the_same(clients: Clients, call: Callable[[Any], Awaitable[Any]]) -> None:
    told = []
    for client in clients:
        with pytest.raises(AutocompressorError) as raised:
            await call(client)
        told.append((raised.value.message, raised.value.code, raised.value.param))
    assert told[0] == told[1]


async def test_a_byte_order_mark_is_no_text(clients: Clients, tmp_path: Path) -> None:
    """Of files that a command names, and of texts that a client gives."""
    (tmp_path / "marked.txt").write_text(TEXT, encoding="utf-8-sig")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8-sig")
    assert documents.text_of(tmp_path / "marked.txt") == TEXT
    with pytest.raises(documents.NoText):
        documents.Document(tmp_path / "empty.txt").text()
    ids = {(await client.compress(text)).id for client in clients for text in (TEXT, "\ufeff" + TEXT)}
    assert len(ids) == 1


async def test_half_a_character_is_refused(clients: Clients) -> None:
    for call in (clients[0].compress("a\ud800"), clients[0].generate("\ud800"), clients[0].score(["\ud800"])):
        with pytest.raises(AutocompressorError, match="unpaired surrogate at character") as raised:
            await call
        assert raised.value.code == "invalid_request"
