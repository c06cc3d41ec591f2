"""Files and directories that are there whole or not at all, whatever ends the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.atomic import aside_of, written_aside

ROOT = Path(__file__).parents[2]


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with written_aside(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert (aside, aside.parent) == (aside_of(path), path.parent)
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_directory_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with written_aside(path) as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "weights").write_text("whole")
        assert not path.exists()
    assert (path / "inner" / "weights").read_text() == "whole"
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old and longer")
    with written_aside(tmp_path / "a") as aside:
        aside.write_text("new")
        assert (tmp_path / "a").read_text() == "old and longer"
    assert (tmp_path / "a").read_text() == "new"


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(OSError, match="not empty"), written_aside(tmp_path / "a") as aside:
        aside.mkdir()
    assert os.listdir(tmp_path / "a") == ["old"]


def test_an_error_leaves_nothing_at_the_path(tmp_path: Path) -> None:
    def interrupted() -> None:
        with written_aside(tmp_path / "a") as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("leftover", ["file", "directory"])
@pytest.mark.parametrize("wanted", ["file", "directory"])
def test_what_an_interrupted_one_left_is_gone(leftover: str, wanted: str, tmp_path: Path) -> None:
    """A leftover file stood in the way of a directory."""
    path = tmp_path / "a"
    if leftover == "file":
        aside_of(path).write_text("half")
    else:
        aside_of(path).mkdir()
        (aside_of(path) / "half").touch()
    with written_aside(path) as aside:
        assert not aside.exists()
        if wanted == "file":
            aside.write_text("whole")
        else:
            aside.mkdir()
            (aside / "whole").touch()
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_text() == "whole" if wanted == "file" else os.listdir(path) == ["whole"]


def test_a_killed_process_leaves_only_what_is_unfinished(tmp_path: Path) -> None:
    lines = [
        "import os, signal, pathlib",
        "from model.atomic import written_aside",
        "with written_aside(pathlib.Path(os.environ['TARGET'])) as aside:",
        "    aside.mkdir()",
        "    (aside / 'half').write_text('half')",
        "    os.kill(os.getpid(), signal.SIGKILL)",
    ]
    environment = os.environ | {"TARGET": str(tmp_path / "a")}
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["a.unfinished"]
    with written_aside(tmp_path / "a") as aside:
        aside.mkdir()
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == []


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is renamed before its bytes are on the disk may be empty after a power cut."""
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    with written_aside(tmp_path / "a") as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "file").touch()
    parts = {"a.unfinished", "a.unfinished/inner", "a.unfinished/inner/file"}
    assert set(done[:3]) == parts
    assert done[3:] == ["rename to a", "."]
