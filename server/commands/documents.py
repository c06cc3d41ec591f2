"""Documents that a command names: files, folders of them, standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompressor import AsyncClient
from server import terminal

STANDARD_INPUT = Path("-")


class NotText(Exception):
    """The file has no text in it, or not in UTF-8."""


@dataclass(frozen=True)
class Document:
    """A file to be read; one that was found in a folder may turn out to be no text."""

    path: Path
    is_found: bool = False

    @property
    def name(self) -> str:
        """Its path; bytes of a file name that are no UTF-8 are replaced, since JSON cannot carry them."""
        return os.fsencode(self.path).decode(errors="replace")

    def text(self) -> str:
        """
        Raises:
            NotText: it is no text.
            OSError: it cannot be read.
        """
        data = sys.stdin.buffer.read() if self.path == STANDARD_INPUT else self.path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise NotText(f"not UTF-8 at byte {error.start}") from None
        if "\x00" in text or not text.strip():
            raise NotText("a binary file" if "\x00" in text else "there is no text in it")
        return text


def find(paths: Sequence[Path], pattern: str) -> list[Document]:
    """The files that are named, and those that folders hold at any depth, hidden ones left out, in order."""
    missing = [path for path in paths if path != STANDARD_INPUT and not path.exists()]
    if missing:
        terminal.stop(f"there is no file or folder {str(missing[0])!r}")
    documents: dict[Path, Document] = {}
    for path in paths:
        if path.is_dir():
            documents |= {found: documents.get(found, Document(found, is_found=True)) for found in _in(path, pattern)}
        else:
            documents[path] = Document(path)
    return list(documents.values())


def _in(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


async def summary_ids(client: AsyncClient, ids: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The ids that are given, then those of the files, which are compressed where they are not stored."""
    return [*ids, *[(await client.compress(text_of(path))).id for path in files]]


def text_of(path: Path) -> str:
    """A file's text; one without ends the program."""
    try:
        return Document(path).text()
    except (NotText, OSError) as error:
        terminal.stop(f"{path}: {error.strerror if isinstance(error, OSError) else error}")


def piped(text: str) -> str:
    """An argument, or standard input in place of `-`."""
    return text_of(STANDARD_INPUT) if text == "-" else text
