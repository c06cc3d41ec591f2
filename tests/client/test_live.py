"""The Python client against a server."""

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from autocompressor import AsyncClient, AutocompressorError, Client, Progress

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 4


def test_a_session(url: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    text = f"Once more. {TEXT}"
    file.write_text(text)
    with Client(url) as client:
        made = client.compress(text, ttl_seconds=1000, metadata={"file": "a"})
        again = client.compress(file=file)
        assert (made.was_stored, again.was_stored, again.id) == (False, True, made.id)
        longer = client.compress(" On Tuesday the fog came.", parent=made.id)
        assert longer.parent == made.id
        whole = client.generate(" On", summary_ids=[made.id], max_tokens=8, temperature=0)
        chunks = list(client.stream(" On", summary_ids=[made.id], max_tokens=8, temperature=0))
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert chunks[-1].usage == whole.usage
        mixed = client.generate(context=[{"summary_id": made.id}, {"text": " On"}], max_tokens=8, temperature=0)
        assert mixed.text == whole.text
        scores = client.score([" a", " the fog"], prompt=" On", summary_ids=[made.id])
        assert all(one.logprob == pytest.approx(sum(one.token_logprobs)) for one in scores.scores)
        assert client.get_summary(longer.id).segments == longer.segments
        client.delete_summary(longer.id)
        with pytest.raises(AutocompressorError) as caught:
            client.get_summary(longer.id)
        assert (caught.value.status, caught.value.code) == (404, "summary_not_found")


async def test_both_clients_agree(url: str) -> None:
    async with AsyncClient(url) as client:
        made = await client.compress(TEXT)
        options = {"summary_ids": [made.id], "max_tokens": 8, "seed": 3}
        texts = [chunk.text async for chunk in client.stream(" On", **options)]  # type: ignore[arg-type]
    with Client(url) as blocking:
        assert "".join(texts) == blocking.generate(" On", **options).text  # type: ignore[arg-type]


async def test_a_stream_may_be_left(url: str) -> None:
    async with AsyncClient(url) as client:
        async for _ in client.stream("On", max_tokens=400, ignore_eos=True):
            break
        assert (await client.generate("On", max_tokens=1)).usage.completion_tokens == 1


def test_progress_ends_in_what_the_call_without_it_returns(url: str) -> None:
    heard: list[Progress] = []
    with Client(url) as client:
        made = client.compress(f"In steps. {TEXT}", progress=heard.append)
        assert (heard[-1].segments_done, heard[-1].segments_total) == (made.segments, made.segments)
        assert heard[-1].vectors == made.vectors
        assert client.compress(f"In steps. {TEXT}").id == made.id
        heard.clear()
        longer = client.append(made.id, " And on.", progress=heard.append)
        assert longer.parent == made.id
        assert heard


def test_a_summary_goes_out_and_comes_back(url: str) -> None:
    with Client(url) as client:
        made = client.compress(f"To be moved. {TEXT}")
        assert made.id in [one.id for one in client.list_summaries(limit=3).data]
        data = client.export_summary(made.id)
        assert client.export_summary(made.id, format="prompt_embeds")
        client.delete_summary(made.id)
        assert client.import_summary(made.id, data, ttl_seconds=1000).tokens == made.tokens
        with pytest.raises(AutocompressorError) as caught:
            client.import_summary(made.id, data[:-1])
        assert caught.value.status in (400, 422)


def test_pages_hold_every_summary_once(url: str) -> None:
    with Client(url) as client:
        made = {client.compress(f"{number} of three. {TEXT}").id for number in range(3)}
        first = client.list_summaries(limit=2)
        second = client.list_summaries(limit=2, after=first.data[-1].id)
        assert first.has_more
        assert made <= {one.id for one in (*first.data, *second.data)}


def test_documents_are_ranked(url: str) -> None:
    with Client(url) as client:
        stored = client.compress(TEXT)
        ranking = client.rerank("fog", ["no ships at all", {"summary_id": stored.id}], return_documents=True)
        assert sorted(one.index for one in ranking.results) == [0, 1]
        assert ranking.results[0].relevance_score >= ranking.results[1].relevance_score
        assert len(client.rerank("fog", ["one", "two"], top_n=1).results) == 1


def test_info_names_limits(url: str) -> None:
    with Client(url) as client:
        assert client.info()


def test_headers_without_end_are_cut(url: str) -> None:
    """`serve` has uvicorn use our connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ")
        time.sleep(0.2)  # what comes with a whole header is not counted
        connection.sendall(b"b" * 70_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431")
