"""Corpora by the clients and the command line, against a live server; and the command that makes an index."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompressor import AsyncClient, AutocompressorError, Client
from server.cli.main import app
from server.core.build import open_core
from server.settings import Settings
from tests.server.corpora import TEXTS, compressed

QUERY = "Who saw the frigate or the ketch?"


def test_an_answer_and_its_pieces_stand_on_what_a_search_finds(url: str) -> None:
    with Client(url) as client:
        found = client.search("library", QUERY, limit=3)
        assert (found.corpus, len(found.hits)) == ("library", 3)
        assert found.hits[0].text in TEXTS
        scores = [hit.relevance_score or 0 for hit in found.hits]
        assert scores == sorted(scores, reverse=True)
        plain = client.search("library", QUERY, limit=2, candidates=2, rerank=False)
        assert [hit.relevance_score for hit in plain.hits] == [None, None]
        answer = client.ask("library", QUERY, limit=3, expand=1, max_tokens=6, temperature=0)
        assert answer.search.hits == found.hits
        first, *rest = client.stream_answer("library", QUERY, limit=3, expand=1, max_tokens=6, temperature=0)
        assert first.search is not None
        assert (first.search.hits, first.text) == (found.hits, "")
        assert "".join(chunk.text for chunk in rest) == answer.text
        assert rest[-1].usage == answer.usage


async def test_an_unknown_corpus_is_told_before_a_stream_begins(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(AutocompressorError, match="there is no corpus 'other'; served: 'library'") as caught:
            async for _ in client.stream_answer("other", QUERY):
                pass
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "corpus_not_found", "corpus")


def test_commands_print_hits_and_an_answer(url: str) -> None:
    run = CliRunner()
    found = run.invoke(app, ["search", "library", QUERY, "--limit", "2", "--url", url])
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 2
    assert all("the keeper saw a" in line for line in lines)
    hits = run.invoke(app, ["search", "library", QUERY, "--limit", "2", "--url", url, "--json"])
    assert [json.loads(line)["source_id"] for line in hits.stdout.splitlines()] == [line.split()[1] for line in lines]
    asked = ["ask", "library", QUERY, "--limit", "2", "--max-tokens", "6", "--temperature", "0", "--url", url]
    said = run.invoke(app, asked)
    assert said.exit_code == 0, said.stderr
    assert [line.split()[0] for line in said.stderr.splitlines()] == [line.split()[1] for line in lines]
    whole = json.loads(run.invoke(app, [*asked, "--json"]).stdout)
    assert said.stdout == f"{whole['text']}\n"
    refused = run.invoke(app, ["search", "other", QUERY, "--url", url])
    assert (refused.exit_code, refused.stderr) == (1, "autocompressor: there is no corpus 'other'; served: 'library'\n")
    assert "leave --local out" in run.invoke(app, ["ask", "library", QUERY, "--local"]).stderr


async def test_the_command_makes_an_index_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(tiny_checkpoint), dtype="float32", store=f"sqlite:{tmp_path}/store.sqlite3")
    async with open_core(settings) as core:
        parts = await compressed(core, tmp_path)
    command = ["index", "--input", str(parts), "--output", str(tmp_path / "index")]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.stderr
    assert f"{len(TEXTS)} passages of 4 files" in made.stderr
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "is there already: name a new folder" in again.stderr) == (2, True)
    alone = CliRunner().invoke(app, [*command, "--factory", "SQ8"])
    assert (alone.exit_code, "--factory 'SQ8' is of --nearest" in alone.stderr) == (2, True)
