"""The README's commands are run, and what it promises is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.test_crash import Server

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "model" / "default"


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


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md"), CHECKPOINT / "MODEL_CARD.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_bundled_checkpoint_is_small_and_whole() -> None:
    sizes = [path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(sizes) < 15 * 2**20
    for name in ("config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md", "autocompressor/config.json"):
        assert (CHECKPOINT / name).is_file()
