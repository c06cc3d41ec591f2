"""Documents that a command names: files, folders of them, standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompressor import AsyncClient, AutocompressorError
from server.cli import terminal
from server.text import BYTE_ORDER_MARK

STANDARD_INPUT = Path("-")


class Unreadable(Exception):
    """A file whose text cannot be had; the message says why."""


class NoText(Unreadable):
    """There is none to be had: the file is binary or empty."""


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
            NoText: it is binary, which a NUL byte tells, or empty.
            Unreadable: it is not UTF-8, or the system refuses it.
        """
        try:
            data = sys.stdin.buffer.read() if self.path == STANDARD_INPUT else self.path.read_bytes()
        except OSError as error:
            raise Unreadable(error.strerror or "cannot be read") from None
        if b"\x00" in data:
            raise NoText("a binary file")
        try:
            text = data.decode().removeprefix(BYTE_ORDER_MARK)
        except UnicodeDecodeError as error:
            raise Unreadable(f"not UTF-8 at byte {error.start}") from None
        if not text.strip():
            raise NoText("there is no text in it")
        return text


def find(paths: Sequence[Path], pattern: str) -> list[Document]:
    """The files that are named, and those that folders hold at any depth, hidden ones left out, in order.

    A name that leads to no file ends the program.
    """
    missing = [path for path in paths if path != STANDARD_INPUT and not path.exists()]
    if missing:
        terminal.stop(f"there is no file or folder {str(missing[0])!r}")
    documents: dict[Path, Document] = {}
    for path in paths:
        if path.is_dir():
            inside = list(_in(path, pattern))
            if not inside:
                terminal.stop(f"there is no file {pattern!r} in the folder {str(path)!r}")
            documents |= {found: documents.get(found, Document(found, is_found=True)) for found in inside}
        else:
            documents[path] = Document(path)
    return list(documents.values())


def _in(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


async def summary_ids(
    client: AsyncClient, ids: Sequence[str], files: Sequence[Path], *, keep_text: bool = False
) -> list[str]:
    """The ids that are given, then those of the files, which are compressed where they are not stored."""
    return [*ids, *[(await client.compress(text_of(path), keep_text=keep_text)).id for path in files]]


def text_of(path: Path) -> str:
    """A file's text; a file that is not there is wrong usage.

    Raises:
        AutocompressorError: it is there, and its text cannot be had.
    """
    if path != STANDARD_INPUT and (path.is_dir() or not path.exists()):
        terminal.stop(f"there is no file {str(path)!r}")
    document = Document(path)
    try:
        return document.text()
    except Unreadable as error:
        raise bad_file(f"{document.name}: {error}") from None


def bad_file(message: str) -> AutocompressorError:
    return AutocompressorError(message, code="bad_file")


def piped(text: str) -> str:
    """An argument, or standard input in place of `-`."""
    return text_of(STANDARD_INPUT) if text == "-" else text
