"""Where documents come from: JSONL and Parquet files, folders of them, and data sets read by `datasets`."""

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import load_dataset
from pyarrow import CompressedInputStream
from pyarrow.parquet import ParquetFile

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
SPLIT = re.compile(r"(?:^|\.)(train|valid|validation|test)[.-]")
HUB_PREFIX = "datasets:"
HASHED_BYTES = 2**20


class Record(NamedTuple):
    """One record of a file: its number from 1 (in JSONL its line), its text, or None and what is wrong with it."""

    number: int
    text: str | None
    fault: str


@dataclass(frozen=True)
class Source:
    """Documents that are drawn with one weight.

    Attributes:
        path: a file, a folder, or `datasets:NAME[:CONFIG][@N]`, a data set of the hub or a local folder, read as a
            stream, its first N documents.
        weight: how often it is drawn, relative to the other sources'; None for its share of all sequences.
    """

    path: str
    weight: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read `PATH` or `PATH=WEIGHT`; ValueError for no path, or a weight that is not above 0."""
        path, mark, weight = text.rpartition("=")
        if not (path if mark else text).strip():
            raise ValueError(f"{text!r} names no documents")
        if not mark or "/" in weight:
            return cls(text)
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError(f"the weight of {path} is {weight!r}; it must be a number above 0")
        return cls(path, number)

    def files(self, split: str) -> list["Files"]:
        """What the source reads, in order.

        Args:
            split: of a folder, see `find_files`.

        Raises:
            ValueError: there is nothing of a known kind at the path.
        """
        if self.path.startswith(HUB_PREFIX):
            name, mark, limit = self.path.removeprefix(HUB_PREFIX).partition("@")
            if mark and not (limit.isdecimal() and int(limit)):
                raise ValueError(f"{self.path} is to end after {limit!r} documents; expected a number")
            return [HubFiles(name, split, int(limit) if mark else None)]
        return [LocalFile(path) for path in find_files(Path(self.path), split)]


def find_files(path: Path, split: str) -> list[Path]:
    """The data files at `path`: itself, or those of a folder (not of folders in it) whose names carry the split.

    To train on, all files of a folder where no name carries any.

    Raises:
        ValueError: none is there.
    """
    if path.is_file() and path.name.endswith(SUFFIXES):
        return [path]
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    kinds = ", ".join(SUFFIXES)
    found = sorted(file for file in path.glob("*") if file.name.endswith(SUFFIXES))
    if not found:
        raise ValueError(f"{path} is no {kinds} file, nor has it any; examples/documents.py makes them of text files")
    files = [file for file in found if split_of(file.name) == split]
    if split == "train" and not any(split_of(file.name) for file in found):
        files = found
    if not files:
        raise ValueError(f"{path} has no file with `{split}.` in its name, ending in {kinds}")
    return files


def split_of(name: str) -> str | None:
    """The split a file's name carries: `books.train.jsonl`, `train.jsonl` and `train-00000-of-00002.parquet` do."""
    found = SPLIT.search(name)
    return found[1].removesuffix("ation") if found else None


def domain_of(name: str) -> str:
    """What a file's name says before its split and its first dot; `documents` where that is nothing."""
    found = SPLIT.search(name)
    return (name[: found.start()] if found else name).partition(".")[0] or "documents"


@dataclass(frozen=True)
class LocalFile:
    """A JSONL or Parquet file, whose records have a `text`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def num_bytes(self) -> int | None:
        return self.path.stat().st_size

    def digest(self) -> str:
        """SHA-256 of its bytes."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(HASHED_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def records(self) -> Iterator[Record]:
        if self.path.name.endswith(".parquet"):
            yield from _parquet_records(self.path)
            return
        with _open_lines(self.path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield Record(number, *_text_of_line(line))


@dataclass(frozen=True)
class HubFiles:
    """A split of a data set that `datasets` can stream: a hub name or a local folder, with its configuration's name."""

    path: str
    split: str
    max_documents: int | None = None

    @property
    def name(self) -> str:
        return f"{HUB_PREFIX}{self.path}"

    @property
    def num_bytes(self) -> int | None:
        return None

    def digest(self) -> str:
        """Of what is asked for: a stream has no bytes to hash before it is read."""
        return hashlib.sha256(json.dumps([self.path, self.split, self.max_documents]).encode()).hexdigest()

    def records(self) -> Iterator[Record]:
        name, _, configuration = self.path.partition(":")
        stream = load_dataset(name, configuration or None, split=self.split, streaming=True)
        for number, row in enumerate(islice(stream, self.max_documents), start=1):
            yield Record(number, *_checked(row.get("text")))


Files = LocalFile | HubFiles


def _parquet_records(path: Path) -> Iterator[Record]:
    with ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            yield from (Record(number, None, "no text") for number in range(1, file.metadata.num_rows + 1))
            return
        number = 0
        for batch in file.iter_batches(batch_size=64, columns=["text"]):
            for value in batch.column(0):
                number += 1
                try:
                    text = value.as_py()
                except UnicodeDecodeError:
                    yield Record(number, None, "bytes that are not UTF-8")
                else:
                    yield Record(number, *_checked(text))


def _text_of_line(line: bytes) -> tuple[str | None, str]:
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return None, "bytes that are not UTF-8"
    except (ValueError, RecursionError):  # bad syntax, a number of too many digits, too many brackets
        return None, "no JSON"
    return _checked(record.get("text") if isinstance(record, dict) else None)


def _checked(text: Any) -> tuple[str | None, str]:
    """A record's text, or None and what is wrong with it."""
    if not isinstance(text, str):
        return None, "no text"
    if not text.strip():
        return None, "an empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, "an unpaired surrogate"
    return text, ""


@contextmanager
def _open_lines(file: Path) -> Iterator[Iterable[bytes]]:
    with file.open("rb") as raw:
        if file.name.endswith(".zst"):
            # not zstandard's reader, which takes a file that was cut short for a whole one
            with io.BufferedReader(CompressedInputStream(raw, "zstd")) as decompressed:
                yield decompressed
        elif file.name.endswith(".gz"):
            with gzip.open(raw) as decompressed:
                yield decompressed
        else:
            yield raw
