"""The command line against a live server and in process: results on stdout, the rest on stderr, exit statuses."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from server.cli.main import app

TEXT = "The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 4
Run = Callable[..., Result]


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command against the live server, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, given: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, arguments, env={"AUTOCOMPRESSOR_URL": url}, input=given)  # type: ignore[return-value]

    return invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two texts, one of them below; beside them what is none, what is empty, and what is hidden."""
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text(f"{tmp_path} a {TEXT}")
    (folder / "below" / "b.md").write_text(f"{tmp_path} b {TEXT}")
    (folder / "binary").write_bytes(b"\x00\xff\x01")
    (folder / "empty.txt").write_text("")
    (folder / ".hidden").write_text(TEXT)
    return folder


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_compress_prints_ids_and_finds_what_is_stored(run: Run, folder: Path) -> None:
    first = run("compress", "texts")
    assert first.exit_code == 0, first.stderr
    ids = dict(reversed(line.split("  ", 1)) for line in first.stdout.splitlines())
    assert sorted(ids) == ["texts/a.txt", "texts/below/b.md"]
    assert "2 compressed, 0 stored already, 2 without text passed over, 0 failed" in first.stderr
    again = run("compress", "texts", "--json")
    assert {one["file"]: one["id"] for one in lines(again)} == ids
    assert "0 compressed, 2 stored already" in again.stderr
    assert [one["file"] for one in lines(run("compress", "texts", "--pattern", "*.md", "--json"))] == [
        "texts/below/b.md"
    ]


def test_a_file_may_have_any_name(run: Run, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text(TEXT)
    (made,) = lines(run("compress", ".", "--pattern", "*.txt", "--json"))
    assert made["file"] == "\ufffd.txt"


def test_compress_reads_stdin_and_goes_on_from_a_parent(run: Run) -> None:
    (first,) = lines(run("compress", "-", "--json", given=f"From a pipe. {TEXT}"))
    (second,) = lines(run("compress", "-", "--json", "--parent", str(first["id"]), given=" And on."))
    assert second["parent"] == first["id"]
    assert first["metadata"] == {}


def test_a_text_that_is_not_utf8_has_failed_and_is_named(run: Run, folder: Path) -> None:
    (folder / "latin.txt").write_bytes("the café was shut".encode("latin-1"))
    result = run("compress", "texts")
    assert result.exit_code == 4
    assert "texts/latin.txt: not UTF-8 at byte 7" in result.stderr
    assert "2 without text passed over, 1 failed" in result.stderr
    assert run("compress", "texts", "--pattern", "latin*").exit_code == 1


def test_other_metadata_of_a_stored_document_stays(run: Run, url: str, folder: Path) -> None:
    body = {"text": (folder / "a.txt").read_text(), "metadata": {"project": "x", "file": "old"}}
    made = httpx.post(f"{url}/compress", json=body).raise_for_status().json()
    assert lines(run("compress", "texts/a.txt", "--json"))[0]["id"] == made["id"]
    (shown,) = lines(run("summaries", "show", made["id"], "--json"))
    assert shown["metadata"] == {"project": "x", "file": "texts/a.txt"}


def test_compress_goes_on_after_a_failure(run: Run, folder: Path) -> None:
    (folder / "a.txt").write_text("word " * 20_000)  # more than the positions have room for
    result = run("compress", "texts", "--json")
    assert result.exit_code == 4
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["texts/below/b.md"]
    error = json.loads(result.stderr.splitlines()[0])
    assert error["name"] == "texts/a.txt"
    assert error["error"]["status"] == 413
    assert run("compress", "texts/a.txt").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["compress", "nowhere"], 2, "there is no file or folder 'nowhere'"),
        (["compress", "texts/binary"], 1, "texts/binary: a binary file"),
        (["compress", "texts/latin.txt"], 1, "texts/latin.txt: not UTF-8 at byte 7"),
        (["compress", "texts", "--pattern", "*.nope"], 2, "there is no file '*.nope' in the folder 'texts'"),
        (["compress", "texts", "--pattern", "empty*"], 2, "there is nothing to compress"),
        (["compress", "texts", "--ttl-seconds", "-1"], 2, "'--ttl-seconds': -1.0 is not above 0"),
        (["compress", "texts", "--ttl-seconds", "nan"], 2, "'--ttl-seconds': nan is not a finite number"),
        (["compress", "texts/empty.txt"], 1, "there is no text in it"),
        (["compress", "texts/a.txt", "--store", "sqlite:x"], 2, "of --local"),
        (["generate", "On", "--model", "none"], 1, "there is no model 'none'"),
        (["compress", "texts", "--url", "http://127.0.0.1:9"], 3, "no server answers at http://127.0.0.1:9"),
        (["generate", "On", "--url", "ftp://x"], 2, "does not begin with http"),
        (["generate", "On", "--summary", "xyz"], 1, "there is no summary 'xyz'"),
        (["generate", "On", "--file", "texts/binary"], 1, "texts/binary: a binary file"),
        (["generate", "On", "--file", "texts/latin.txt"], 1, "texts/latin.txt: not UTF-8 at byte 7"),
        (["generate", "On", "--file", "texts"], 2, "there is no file 'texts'"),
        (["generate", "On", "--top-p", "5"], 2, "Invalid value for '--top-p': "),
        (["generate", "On", "--top-p", "0"], 2, "'--top-p': 0.0 is not above 0"),
        (["generate", "On", "--min-p", "-1"], 2, "Invalid value for '--min-p': "),
        (["generate", "On", "--temperature", "nan"], 2, "Invalid value for '--temperature': "),
        (["generate", "On", "--timeout", "nan"], 2, "Invalid value for '--timeout': "),
        (["generate", "On", "--local", "--model", "/nowhere"], 2, "there is no directory /nowhere"),
        (["rerank", "query"], 2, "there is nothing to rank"),
        (["summaries", "show", "xyz"], 1, "there is no summary 'xyz'"),
        (["summaries", "ls", "--limit", "0"], 2, "Invalid value for '--limit': "),
        (["summaries", "import", "nowhere"], 2, "nowhere: No such file"),
    ],
)
def test_failures_have_a_sentence_and_a_status(
    run: Run, folder: Path, arguments: list[str], status: int, said: str
) -> None:
    (folder / "latin.txt").write_bytes("the café was shut".encode("latin-1"))
    result = run(*arguments)
    assert result.exit_code == status, result.stderr
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_generate_streams_what_json_has_whole(run: Run, folder: Path) -> None:
    arguments = ["generate", " On", "--file", "texts/a.txt", "--max-tokens", "8", "--temperature", "0"]
    (whole,) = lines(run(*arguments, "--json"))
    assert run(*arguments).stdout == f"{whole['text']}\n"
    piped = ["generate", "-", *arguments[2:], "--json"]
    assert lines(run(*piped, given=" On"))[0]["text"] == whole["text"]


def test_text_is_kept_measured_and_expanded(run: Run, folder: Path) -> None:
    long = folder / "long.txt"
    long.write_text("The keeper wrote one line a day: wind from the north, eleven ships, no fog. " * 9)
    made = run("compress", "--keep-text", "--measure", str(long))
    number, name, kept = made.stdout.split(maxsplit=2)
    assert name.endswith("long.txt")
    assert "nats after nothing" in kept
    told = json.loads(run("compress", "--json", "--measure", str(long)).stdout)
    assert f"{told['retention']['summary']:.2f} after vectors" in kept
    short = run("compress", "--measure", "-", given="A short one.")
    assert short.stdout.strip().endswith("too short to measure")
    for source in (("--summary", number), ("--file", str(long))):
        asked = json.loads(run("generate", "--json", *source, "--expand", "1", "--max-tokens", "4", "the ships").stdout)
        assert len(asked["receipt"]["expanded"]) == 1
    scored = run("score", "--summary", number, "--expand", "1", "--prompt", "the ships", " a")
    assert scored.stdout != run("score", "--summary", number, "--prompt", "the ships", " a").stdout
    refused = run("generate", "--expand", "1", "the ships")
    assert (refused.exit_code, "no summary" in refused.stderr) == (1, True), refused.stderr


def test_score_gives_a_line_for_each_continuation(run: Run) -> None:
    scores = lines(run("score", " the fog", " a ship", "--prompt", "On", "--json"))
    assert [one["continuation"] for one in scores] == [" the fog", " a ship"]
    printed = run("score", " the fog", " a ship", "--prompt", "On").stdout.splitlines()
    assert float(printed[0].split()[0]) == pytest.approx(scores[0]["logprob"], abs=1e-4)


def test_summaries_are_shown_and_removed(run: Run, folder: Path) -> None:
    (made,) = lines(run("compress", "texts/a.txt", "--json"))
    (shown,) = lines(run("summaries", "show", str(made["id"]), "--json"))
    assert shown["metadata"] == {"file": "texts/a.txt"}
    assert "expires      never" in run("summaries", "show", str(made["id"])).stdout
    removed = run("summaries", "rm", str(made["id"]), "absent")
    assert removed.exit_code == 4
    assert removed.stdout.split() == [made["id"]]
    assert "absent: there is no summary" in removed.stderr


def test_summaries_are_listed_exported_and_imported(run: Run, folder: Path) -> None:
    (made,) = lines(run("compress", "texts/a.txt", "--json"))
    listed = lines(run("summaries", "ls", "--json"))
    assert made["id"] in [one["id"] for one in listed]
    assert len(lines(run("summaries", "ls", "--limit", "1", "--json"))) == 1
    assert run("summaries", "ls").stdout.splitlines()[0].endswith("texts/a.txt")
    file = f"{made['id']}.safetensors"
    assert run("summaries", "export", str(made["id"])).stdout == f"{file}\n"
    piped = run("summaries", "export", str(made["id"]), "--out", "-").stdout_bytes
    assert len(piped) == Path(file).stat().st_size > 1000  # not the same bytes: safetensors orders metadata at random
    assert run("summaries", "rm", str(made["id"])).exit_code == 0
    assert run("summaries", "import", file).stdout == f"{made['id']}\n"
    assert run("summaries", "show", str(made["id"])).exit_code == 0


def test_rerank_names_what_it_ranks(run: Run, folder: Path) -> None:
    (made,) = lines(run("compress", "texts/below/b.md", "--json"))
    arguments = ["rerank", "fog", "texts/a.txt", "--summary", str(made["id"]), "--text", "no ships"]
    ranked = lines(run(*arguments, "--json"))
    assert sorted(str(one["name"]) for one in ranked) == sorted(["texts/a.txt", str(made["id"]), "no ships"])
    assert {one["summary_id"] for one in ranked if one["name"] == made["id"]} == {made["id"]}
    assert len(run(*arguments, "--top-n", "2").stdout.splitlines()) == 2


def test_rerank_keeps_documents_of_one_name_apart(run: Run, folder: Path) -> None:
    arguments = ["rerank", "fog", "texts/a.txt", "--text", "texts/a.txt", "--text", "x", "--text", "x"]
    ranked = lines(run(*arguments, "--json"))
    scores = {one["index"]: one["relevance_score"] for one in ranked}
    assert sorted(scores) == [0, 1, 2, 3]  # type: ignore[type-var]
    assert scores[0] != scores[1]
    (made,) = lines(run("compress", "texts/a.txt", "--json"))
    assert [one["summary_id"] for one in ranked if one["index"] == 0] == [made["id"]]


def test_a_terminal_sees_bars_and_the_result_is_the_same(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run("compress", "texts").stdout.splitlines()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    (folder / "c.txt").write_text(f"{folder} c {TEXT}")
    watched = run("compress", "texts")
    assert set(plain) < set(watched.stdout.splitlines())
    assert "documents" in watched.stderr


def test_local_is_the_same_client(tiny_checkpoint: Path, run: Run, folder: Path) -> None:
    (served,) = lines(run("compress", "texts/a.txt", "--json"))
    local = ["--local", "--model", str(tiny_checkpoint), "--store", f"sqlite:{folder}/store.sqlite3", "--json"]
    (made,) = lines(run("compress", "texts/a.txt", *local))
    assert made["vectors"] == served["vectors"]
    arguments = ["generate", " On", "--summary", str(made["id"]), "--max-tokens", "4", "--temperature", "0"]
    assert lines(run(*arguments, *local))[0]["text"]
    assert run(*arguments, *local[:-1]).stdout.strip()
    assert run("summaries", "show", "xyz", *local).exit_code == 1


def test_help_tells_the_exit_statuses() -> None:
    for command in ([], ["compress"], ["generate"], ["score"], ["rerank"], ["summaries", "ls"]):
        text = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert "3 no server answers" in text, command


def test_shells_complete_commands() -> None:
    environment = {"_AUTOCOMPRESSOR_COMPLETE": "complete_bash", "COMP_WORDS": "autocompressor sum", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "autocompressor")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["summaries"], done.stderr


def test_a_command_starts_without_the_model() -> None:
    """Less than half a second of the processor, where torch and transformers alone take several."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(Path(sys.executable).parent / "autocompressor"), "version"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0  # twice that, for slow machines


def test_serve_passes_over_the_clients_variables(run: Run) -> None:
    result = run("serve", "--port", "0", "--model", "/nowhere")
    assert result.exit_code == 2
    assert "there is no directory /nowhere" in result.stderr


def test_bench_says_where_the_benchmarks_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("server.cli.main.__file__", str(tmp_path / "server" / "cli.py"))
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2
    assert "in a checkout of the source" in result.stderr


def test_the_module_is_the_command() -> None:
    """Without its guard `python -m server.cli.main` did nothing, and succeeded."""
    done = subprocess.run(
        [sys.executable, "-m", "server.cli.main", "version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{version('autocompressor')}\n")
