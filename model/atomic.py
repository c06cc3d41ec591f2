"""Files and directories that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a directory to.

    At the end it is brought to the disk and renamed to `path`, which must not be a directory yet: what is interrupted,
    by `kill -9` or a power cut, never looks finished.
    """
    aside = aside_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if aside.is_dir():
        shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    yield aside
    for written in [aside, *aside.rglob("*")] if aside.is_dir() else [aside]:
        _sync(written)
    aside.rename(path)
    _sync(path.parent)


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """As `written_aside` a directory, where several processes may write the same one at once: the first done wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", suffix=".unfinished", dir=path.parent) as folder:
        aside = Path(folder) / path.name
        aside.mkdir()
        yield aside
        for written in [aside, *aside.rglob("*")]:
            _sync(written)
        with suppress(OSError):  # another process's is there, and is the same
            aside.rename(path)
    _sync(path.parent)


def aside_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
