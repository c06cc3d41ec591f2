"""Rows of an input block as documents, or why one is none."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyarrow.parquet import ParquetFile

from server.bulk.blocks import PARQUET, Block, opened
from server.text import encodable

ROWS_TOGETHER = 256  # of Parquet, decoded at a time


@dataclass(frozen=True)
class Columns:
    """Where a document's parts stand in a row. `metadata`: columns that go with it."""

    text: str = "text"
    id: str = "id"
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A document. `row`: in its file, from 1; a line of JSONL. `id`: its own, or the SHA-256 of its text."""

    row: int
    id: str
    text: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row that is no document, and why. `row`: as of `Record`."""

    row: int
    reason: str


def read(block: Block, columns: Columns) -> Iterator[Record | Rejected]:
    """Every row of a block, in order; of JSONL blank lines are passed over. OSError where it cannot be read."""
    rows = _parquet_rows if block.source.endswith(PARQUET) else _lines
    for row, value in rows(block, columns):
        try:
            yield _record(row, json.loads(value) if isinstance(value, bytes) else value, columns)
        except json.JSONDecodeError as error:
            yield Rejected(row, f"not JSON: {error.msg} at character {error.pos}")
        except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is one
            yield Rejected(row, str(error))


def _record(row: int, value: Any, columns: Columns) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_kind(value)}")
    text = value.get(columns.text)
    if text is None:
        raise ValueError(f"there is no {columns.text!r}")
    if not isinstance(text, str):
        raise ValueError(f"{columns.text!r} is {_kind(text)}, not a text")
    if not text:
        raise ValueError(f"{columns.text!r} is empty")
    return Record(row, _id(value, encodable(text), columns.id), text, dict(_metadata(value, columns.metadata)))


def _id(value: Mapping[str, Any], text: str, column: str) -> str:
    given = value.get(column)
    if given is None:
        return hashlib.sha256(text.encode()).hexdigest()
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"{column!r} is {_kind(given)}, neither a text nor a whole number")
    return encodable(str(given))


def _metadata(value: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        given = value.get(name)
        if given is not None:
            yield name, encodable(given if isinstance(given, str) else json.dumps(given, default=str))


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _lines(block: Block, _: Columns) -> Iterator[tuple[int, bytes]]:
    system, path = opened(block.source)
    with system.open_input_file(path) as file:
        file.seek(block.offset)
        data = file.read(block.num_bytes)
    for place, line in enumerate(data.split(b"\n")):
        if line.strip():
            yield block.first_row + place + 1, line.removeprefix(b"\xef\xbb\xbf")


def _parquet_rows(block: Block, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    system, path = opened(block.source)
    with ParquetFile(system.open_input_file(path)) as file:
        names = [name for name in (columns.text, columns.id, *columns.metadata) if name in file.schema_arrow.names]
        row, end = 0, block.first_row + block.num_rows
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if row + num_rows <= block.first_row or row >= end:
                row += num_rows
                continue
            for batch in file.iter_batches(ROWS_TOGETHER, row_groups=[group], columns=names):
                if row + len(batch) > block.first_row:
                    for place, value in enumerate(batch.to_pylist(), start=row):
                        if block.first_row <= place < end:
                            yield place + 1, value
                row += len(batch)
                if row >= end:
                    return
