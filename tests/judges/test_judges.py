"""What judges say is read as they mean it; the fast ones judge, where they are installed."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.live import LiveServer
from tests.judges import __main__ as program
from tests.judges import places, speaker
from tests.judges.catalogue import JUDGES
from tests.judges.judge import ALIAS, Judge, Lack, Outcome, Target, as_table

LACKS = {"images": Lack("it reads text alone", "HTTP 4(00|22)")}


def read(*results: dict[str, Any], before: str = "") -> Outcome | None:
    judge = Judge(install=lambda folder: folder, command=lambda *_: [], lacks=LACKS)
    return judge.read("one", before + json.dumps({"results": results}))


def test_results_are_counted_and_failures_told() -> None:
    failed = {"id": "b", "status": "failed", "errors": ["no text", "no usage"]}
    skipped = {"id": "c", "status": "skipped", "errors": ["of other models"]}
    outcome = read({"id": "a", "status": "passed"}, failed, skipped, before="a line before\n")
    assert outcome == Outcome("one", 1, ["b: no text; no usage"], ["c: of other models"])
    assert as_table([outcome]).splitlines()[-1] == "| one | 1 | 1 | c: of other models | 0.0 |"


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("failed", "HTTP 400: [object Object]", Outcome("one", skipped=["images: it reads text alone"])),
        ("failed", "HTTP 404: not found", Outcome("one", failures=["images: HTTP 404: not found"])),
        ("failed", "HTTP 500: defect", Outcome("one", failures=["images: HTTP 500: defect"])),
        ("passed", "", Outcome("one", passed=1)),
        ("running", "", Outcome("one", failures=["images: running"])),
    ],
)
def test_what_the_model_lacks_is_skipped_where_it_is_refused(status: str, error: str, expected: Outcome) -> None:
    assert read({"id": "images", "status": status, "errors": [error] if error else []}) == expected


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('no such host')", "no such host"),
        ("print('{}')", "said nothing readable"),
        ("print('{\"results\": []}')", "said nothing readable"),
    ],
)
def test_a_judge_that_breaks_down_has_failed(tmp_path: Path, script: str, said: str) -> None:
    judge = Judge(install=lambda folder: folder, command=lambda *_: [sys.executable, "-c", script])
    outcome = judge.ask("one", tmp_path, Target("http://127.0.0.1:9/v1", "a"))
    assert said in outcome.failures[0]


def test_a_suite_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(places.SUITE_VARIABLE, str(tmp_path / "empty"))
    monkeypatch.setattr(places.shutil, "which", lambda _: None)
    with pytest.raises(places.Unavailable, match="no npm"):
        places.compliance_suite(tmp_path / "suite")
    monkeypatch.setattr(places.shutil, "which", lambda _: "npm")
    with pytest.raises(places.Unavailable, match=r"empty has no bin/compliance-test\.ts"):
        places.compliance_suite(tmp_path / "suite")


def test_a_suite_that_was_installed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken away for the repository's, which could not be had."""
    monkeypatch.delenv(places.SUITE_VARIABLE, raising=False)
    made = "\n".join([*places.NODE_PACKAGES, "/another/folder"])
    (tmp_path / "made-of").write_text(made)
    assert places.compliance_suite(tmp_path) == tmp_path
    monkeypatch.setattr(places, "NODE_PACKAGES", ("bun@99",))
    monkeypatch.setattr(places.shutil, "which", lambda _: None)
    with pytest.raises(places.Unavailable):
        places.compliance_suite(tmp_path)


def test_a_server_that_does_not_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' results were lost."""
    monkeypatch.setitem(JUDGES, "one", Judge(install=lambda folder: folder, command=lambda *_: []))
    outcome = program.judged("one", str(tmp_path / "absent"), tmp_path)
    assert "did not become ready" in outcome.failures[0]
    assert "absent" in outcome.failures[0]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("judged")
    model = speaker.save(folder / "speaker")
    with LiveServer(folder, "--model", str(model), "--aliases", ALIAS) as server:
        yield Target(f"http://127.0.0.1:{server.port}/v1", ALIAS)


def test_the_speaker_s_turns_end_and_say_something(target: Target) -> None:
    body = {"model": target.model, "messages": [{"role": "user", "content": "Count."}], "n": 16, "seed": 1}
    chosen = httpx.post(f"{target.url}/chat/completions", json=body, timeout=60).json()["choices"]
    assert {choice["finish_reason"] for choice in chosen} == {"stop"}
    assert all(choice["message"]["content"] for choice in chosen)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("llm-comply-chat", "llm_comply"),
        ("llm-comply-responses", "llm_comply"),
        ("openresponses-types", "openresponses_types"),
    ],
)
def test_the_fast_judges(name: str, package: str, target: Target) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is of the extra `ci`")
    outcome = JUDGES[name].ask(name, Path(sys.prefix), target)
    assert not outcome.failures
    assert outcome.passed > 5
