"""The output: one Parquet file for each input block, there whole or not at all, and what was rejected.

A part's footer says what it was made of and which rows were rejected, so that both are there at the same moment.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSelector
from pyarrow.parquet import ParquetFile, ParquetWriter

from server.bulk.blocks import PARQUET, Block, opened
from server.bulk.records import Rejected

NOTE = "autocompressor.bulk"
UNFINISHED = ".unfinished"
REJECTED = "rejected.jsonl"
# without statistics: a wrong one would hide rows from readers, and is seen by no checksum of the rows
OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


@dataclass(frozen=True)
class Row:
    """A document's summary.

    Attributes:
        id: of the summary. source_id: of the input row.
        vectors: num_vectors x width numbers of bfloat16, little-endian, a vector after the other.
        ranks: of the vectors within each segment, the most important one's is 0; None where they have no order.
        text, token_ids: where they are kept.
    """

    id: str
    source_id: str
    vectors: bytes
    num_vectors: int
    width: int
    tokens: int
    segments: int
    ranks: list[int] | None
    text: str | None
    token_ids: list[int] | None
    metadata: dict[str, str]


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("vectors", pa.large_binary()),
        ("num_vectors", pa.int32()),
        ("width", pa.int32()),
        ("tokens", pa.int32()),
        ("segments", pa.int32()),
        ("ranks", pa.list_(pa.int32())),
        ("text", pa.large_string()),
        ("token_ids", pa.list_(pa.int32())),
        ("metadata", pa.map_(pa.string(), pa.string())),
    ]
)


class PartWriter:
    """Takes a part's rows, some at a time."""

    def __init__(self, writer: ParquetWriter) -> None:
        self._writer = writer
        self._num_rows = 0
        self._digest = hashlib.sha256()

    def add(self, rows: Sequence[Row]) -> None:
        if rows:
            given = [asdict(row) | {"metadata": list(row.metadata.items())} for row in rows]
            table = pa.Table.from_pylist(given, schema=SCHEMA)
            self._writer.write_table(table)
            self._num_rows += len(rows)
            _hash(self._digest, table.to_pylist())

    def end(self, key: str, fingerprint: str, rejected: Sequence[Rejected]) -> "Note":
        told = [asdict(each) for each in rejected]
        note = Note(key, fingerprint, self._num_rows, self._digest.hexdigest(), told)
        self._writer.add_key_value_metadata({NOTE: json.dumps(asdict(note))})
        return note


@dataclass(frozen=True)
class Note:
    """What a part's footer says.

    Attributes:
        key: of what it was made. fingerprint: of the model. digest: of its rows. rejected: `Rejected` as objects.
    """

    key: str
    fingerprint: str
    num_rows: int
    digest: str
    rejected: list[dict[str, Any]]


class Parts:
    """Those in a folder, a path or a URL."""

    def __init__(self, folder: str) -> None:
        self._system, self._folder = opened(folder)

    def prepare(self, blocks: Sequence[Block]) -> None:
        """Make the folder, and remove what an interrupted run left half written, and what says that a run has ended.

        Raises:
            ValueError: it has parts that are of none of these blocks, beside which theirs would stand twice.
        """
        self._system.create_dir(self._folder, recursive=True)
        expected = {block.part for block in blocks}
        infos = self._system.get_file_info(FileSelector(self._folder))
        for info in infos:
            if info.base_name.endswith(UNFINISHED):
                self._system.delete_file(info.path)
            elif info.base_name.endswith(PARQUET) and info.base_name not in expected:
                raise ValueError(
                    f"{self._folder} has {info.base_name}, of other input or of another --block-rows: name a new folder"
                )
        if any(info.base_name == REJECTED for info in infos):
            self._system.delete_file(self._path(REJECTED))

    def note(self, block: Block) -> Note | None:
        """What a block's part says, all of which is read; None where it is absent or damaged."""
        try:
            note = self.told(block.part)
            for _ in self.rows(block.part):
                pass
        except (OSError, ValueError):
            return None
        return note

    def finished(self) -> list[str]:
        """The names of all parts, in their order.

        Raises:
            ValueError: the run that makes them has not ended: what it rejected, which it writes last, is not there.
        """
        infos = self._system.get_file_info(FileSelector(self._folder))
        names = sorted(info.base_name for info in infos)
        if REJECTED not in names:
            raise ValueError(
                f"{self._folder} has no {REJECTED}: it is no output of `autocompressor bulk`, or the run has not ended"
            )
        return [name for name in names if name.endswith(PARQUET)]

    def told(self, name: str) -> Note:
        """What a part says in its footer; ValueError where it has none."""
        with self._reading(name) as (_, note):
            return note

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """A part's rows, columns by their names; ValueError after the last where they are not those that it tells."""
        digest = hashlib.sha256()
        with self._reading(name) as (file, note):
            for batch in file.iter_batches(64):
                rows = batch.to_pylist()
                _hash(digest, rows)
                yield from rows
        if digest.hexdigest() != note.digest:
            raise ValueError(f"{self._path(name)} is damaged: run bulk again")

    @contextmanager
    def _reading(self, name: str) -> Iterator[tuple[ParquetFile, Note]]:
        """A part that is open, and what it says in its footer; ValueError where it has none."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(ParquetFile(self._system.open_input_file(self._path(name))))
                note = Note(**json.loads(file.metadata.metadata[NOTE.encode()]))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._path(name)} is damaged, or no part of this version's: run bulk again"
                ) from error
            yield file, note

    @contextmanager
    def writing(self, block: Block) -> Iterator[PartWriter]:
        """A block's part, which is there when the body ends, and not at all where that fails."""
        aside = f"{self._path(block.part)}.{uuid.uuid4().hex}{UNFINISHED}"
        try:
            with ParquetWriter(aside, SCHEMA, filesystem=self._system, **OPTIONS) as writer:
                yield PartWriter(writer)
            self._system.move(aside, self._path(block.part))
        except BaseException:
            with suppress(OSError):
                self._system.delete_file(aside)
            raise

    def write_rejected(self, blocks: Sequence[Block]) -> None:
        """Put together what the parts say was rejected, in the order of the input; an empty file where nothing was."""
        aside = self._path(f"{REJECTED}{UNFINISHED}")
        with self._system.open_output_stream(aside) as file:
            for block in blocks:
                for each in self.told(block.part).rejected:
                    file.write((json.dumps({"source": block.source} | each, ensure_ascii=False) + "\n").encode())
        self._system.move(aside, self._path(REJECTED))

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


def _hash(digest: "hashlib._Hash", rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        digest.update(json.dumps(row | {"vectors": None}).encode())
        digest.update(row["vectors"])
