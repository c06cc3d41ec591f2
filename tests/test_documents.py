"""The README's commands are run, and what it promises is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.test_crash import Server

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "model" / "paper"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), flags=re.M | re.S)


@pytest.mark.slow
def test_the_readme_s_calls_work_as_written(tmp_path: Path) -> None:
    calls = [block for block in blocks("README.md", "sh") if "curl" in block]
    assert len(calls) == 1
    server = Server(CHECKPOINT, f"sqlite:{tmp_path}/store.sqlite3", tmp_path / "server.log")
    try:
        address = str(server.client.base_url).removeprefix("http://")
        script = "set -e\n" + calls[0].replace("localhost:8000", address)
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stdout
        for word in ('"compression_ratio"', '"finish_reason"', '"token_logprobs"', "data: [DONE]", '"deleted":true'):
            assert word in done.stdout
        demo = subprocess.run(
            [sys.executable, ROOT / "examples" / "demo.py", "--url", f"http://{address}"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert demo.returncode == 0, demo.stderr
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_the_readme_s_recipes_work_as_written(tmp_path: Path) -> None:
    recipes = [block for block in blocks("README.md", "sh") if ".venv/bin/autocompressor compress" in block]
    programs = blocks("README.md", "python")
    assert (len(recipes), len(programs)) == (2, 5)
    server = Server(Path("paper"), f"sqlite:{tmp_path}/store.sqlite3", tmp_path / "server.log")
    try:
        address = str(server.client.base_url).rstrip("/")
        told = shell(f"export AUTOCOMPRESSOR_URL={address}\n{recipes[0]}", ROOT)
        assert "Stanard" in told
        kept = shell(f"export AUTOCOMPRESSOR_URL={address}\n{recipes[1]}", ROOT)
        assert "nats after nothing" in kept
        for program in programs:
            own = program.replace("http://127.0.0.1:8000", address).replace("-default", "-paper")
            done = subprocess.run(
                [sys.executable, "-c", own], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_the_api_page_is_of_this_application_and_its_examples_work(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/api.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    opening, *examples = blocks("docs/api.md", "sh")
    cut = "-- end of an example --"
    assert len(examples) > 20
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    server = Server(CHECKPOINT, f"sqlite:{tmp_path}/store.sqlite3", tmp_path / "server.log")
    try:
        pasted = "".join(f"{example}echo; echo {cut}\n" for example in examples)
        told = shell(f"URL={server.client.base_url}\n{opening}{pasted}", tmp_path).split(cut)
        for example, answer in zip(examples, told, strict=False):
            # nothing runs in the background, and this server has no keys and no corpora
            is_refused = any(path in example for path in ("/cancel", "/admin/", "/search", "/ask"))
            assert ('"error":{' in answer) == is_refused, f"{example}{answer}"
            assert "\ufffd" not in answer, f"{example}{answer}"
    finally:
        assert server.stop() == 0


FEW_TOKENS = "--pretraining-tokens 16384 --tokens 17408"


@pytest.fixture
def newcomers_folder(tmp_path: Path) -> Path:
    """Where a newcomer's commands are run: the project's programs and examples, and a dozen texts."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    texts = tmp_path / "path" / "to" / "texts"
    texts.mkdir(parents=True)
    chapter = (ROOT / "examples" / "chapter.txt").read_text()
    for number in range(12):
        (texts / f"{number:02}.txt").write_text(f"Copy {number} of a chapter.\n\n{chapter}")
    return tmp_path


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_training_page_works_as_written(newcomers_folder: Path) -> None:
    """With fewer tokens, and the server at a free port."""
    documents, train, serve, planned, baselines, *others = blocks("docs/training.md", "sh")
    assert "train: 8 documents" in shell(documents, newcomers_folder)
    told = shell(train.replace("--recipe tiny", f"--recipe tiny {FEW_TOKENS}"), newcomers_folder)
    assert "AutoCompressor" in told
    run = newcomers_folder / "runs" / "mine" / "tiny"
    assert {path.name for path in run.iterdir()} >= {"checkpoint", "report", "pretraining", "adaptation", "base"}
    assert f"--model {run.relative_to(newcomers_folder)}/checkpoint" in serve
    server = Server(run / "checkpoint", f"sqlite:{newcomers_folder}/store.sqlite3", newcomers_folder / "server.log")
    try:
        text = (ROOT / "examples" / "chapter.txt").read_text()
        server.client.post("/compress", json={"text": text}).raise_for_status()
    finally:
        assert server.stop() == 0
    assert "GiB" in shell(planned, newcomers_folder)
    # here only that the baselines would run, which takes a minute: the test below has them run
    adaptations, evaluation = baselines.split(".venv/bin/autocompressor train evaluate")
    told = shell(re.sub(r"(?m)^(\$ADAPT.*)$", r"\1 --plan", adaptations), newcomers_folder)
    assert told.count("GiB") >= 2
    labels = re.findall(r"--beside \"(.+?)=", evaluation)
    assert labels == ["RMT", "extended full attention"]
    # several machines, and the bench, whose suites have tests of their own
    assert sum("torchrun" in block for block in others) + sum("--suite" in block for block in others) == len(others) > 1


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md"), CHECKPOINT / "MODEL_CARD.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_bundled_checkpoint_is_small_and_whole() -> None:
    sizes = [path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(sizes) < 40_000_000
    assert max(sizes) < 15_000_000
    for name in ("config.json", "tokenizer.json", "MODEL_CARD.md", "autocompressor/config.json"):
        assert (CHECKPOINT / name).is_file()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_training_page_s_baselines_work_as_written(newcomers_folder: Path) -> None:
    """With fewer tokens."""
    documents, train, _, _, baselines, *_ = blocks("docs/training.md", "sh")
    shell(documents, newcomers_folder)
    shell(train.replace("--recipe tiny", f"--recipe tiny {FEW_TOKENS}"), newcomers_folder)
    told = shell(baselines.replace("--recipe tiny", "--recipe tiny --tokens 17408"), newcomers_folder)
    assert "AutoCompressor minus RMT" in told
    assert "extended full attention" in told
