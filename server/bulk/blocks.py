"""What a bulk run is cut into: runs of rows of its input files, the same whoever reads them and however often."""

import glob
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyarrow.parquet import ParquetFile

PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".ndjson", PARQUET)
BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Block:
    """Rows of one input file that become one part of the output.

    Attributes:
        source: the file, an absolute path or a URL.
        first_row, num_rows: lines of JSONL, blank ones too, or rows of Parquet; the first of a file is 0.
        offset, num_bytes: of JSONL, where in the file they are.
        digest: of JSONL, of these bytes; of Parquet, of the file's size and its time of change.
    """

    source: str
    first_row: int
    num_rows: int
    offset: int
    num_bytes: int
    digest: str

    @property
    def part(self) -> str:
        """The name of its part, without a folder: the input file's, what tells equal names apart, the first row."""
        stem = re.sub(r"[^\w-]+", "_", PurePosixPath(self.source).stem)[:40]
        return f"{stem}-{hashlib.sha256(self.source.encode()).hexdigest()[:8]}-{self.first_row:012d}{PARQUET}"


def opened(place: str) -> tuple[FileSystem, str]:
    """The file system of a path or URL, and its path there. ValueError for a URL that pyarrow does not know."""
    if "://" in place:
        system, path = FileSystem.from_uri(place)
    else:
        system, path = FileSystem.from_uri(f"file://{os.path.abspath(place)}")
        path = os.path.abspath(place)  # as it is written, not as a URL's percent signs have it
    return system, path


def find(places: Sequence[str]) -> list[str]:
    """The JSONL and Parquet files among paths, globs, folders and URLs, each once, in the order of their names.

    Raises:
        ValueError: one of `places` names nothing, or no file of these.
    """
    found: set[str] = set()
    for place in places:
        found.update(_files_of(place))
    return sorted(found)


def cut(source: str, rows: int, column: str) -> list[Block]:
    """The blocks of a file, of so many rows each, the last of fewer.

    Raises:
        ValueError: a Parquet file without the column, or a file that is no Parquet. OSError: it cannot be read.
    """
    system, path = opened(source)
    if not source.endswith(PARQUET):
        with system.open_input_stream(path) as stream:
            return list(_cut_lines(source, io.BufferedReader(stream, BUFFER_BYTES), rows))
    info = system.get_file_info(path)
    digest = hashlib.sha256(f"{info.size} {info.mtime_ns}".encode()).hexdigest()
    with ParquetFile(system.open_input_file(path)) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise ValueError(f"{source} has no column {column!r}, but {', '.join(map(repr, names))}")
        total = file.metadata.num_rows
    return [Block(source, first, min(rows, total - first), 0, 0, digest) for first in range(0, total, rows)]


def _files_of(place: str) -> list[str]:
    is_url = "://" in place
    if not is_url and not os.path.exists(place) and glob.has_magic(place):
        matches = glob.glob(place, recursive=True)
        named = [each for match in matches for each in ([match] if _has_suffix(match) else [])]
        if not named:
            raise ValueError(f"{place} matches no file that ends in {', '.join(SUFFIXES)}")
        return [os.path.abspath(each) for each in named]
    system, path = opened(place)
    info = system.get_file_info(path)
    if info.type == FileType.NotFound:
        raise ValueError(f"{place} does not exist")
    if info.type == FileType.File:
        if not _has_suffix(path):
            raise ValueError(f"{place} does not end in {', '.join(SUFFIXES)}")
        return [place if is_url else path]
    inside = [each.path for each in system.get_file_info(FileSelector(path, recursive=True)) if _is_input(each)]
    if not inside:
        raise ValueError(f"the folder {place} has no file that ends in {', '.join(SUFFIXES)}")
    prefix = f"{place.partition('://')[0]}://" if is_url else ""
    return [f"{prefix}{each}" for each in inside]


def _is_input(info: FileInfo) -> bool:
    return info.type == FileType.File and _has_suffix(info.path) and not info.base_name.startswith((".", "_"))


def _has_suffix(name: str) -> bool:
    return name.endswith(SUFFIXES)


def _cut_lines(source: str, lines: io.BufferedReader, rows: int) -> Iterator[Block]:
    first = offset = row = size = 0
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
        row, size = row + 1, size + len(line)
        if row - first == rows:
            yield Block(source, first, rows, offset, size, digest.hexdigest())
            first, offset, size, digest = row, offset + size, 0, hashlib.sha256()
    if row > first:
        yield Block(source, first, row - first, offset, size, digest.hexdigest())
