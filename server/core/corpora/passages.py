"""The passages of an index on the disk: flat files, of which a reader maps into memory what it is asked for.

What has a number of items of its own for each passage stands end to end in one file; `places.npy` has where each
passage begins in each of them, and where the last one ends.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.int8 import dequantised, quantised
from server.core.corpora.manifest import Manifest, VectorsKept

PLACES = "places.npy"
RECORDS, TOKEN_IDS, VECTORS, SCALES, RANKS = "records.jsonl", "token_ids.i4", "vectors", "scales.f4", "ranks.i4"


@dataclass(frozen=True)
class Passage:
    """A passage of a corpus.

    Attributes:
        id: of its summary, as bulk compression gave it. source_id: of the document it was there.
        vectors: those that condition what follows it, (P, D).
        ranks: (P,) int64, within each of its segments; None where vectors have no order of importance.
    """

    id: str
    source_id: str
    text: str
    metadata: dict[str, str]
    token_ids: tuple[int, ...]
    vectors: Tensor
    ranks: Tensor | None = None


class Writer:
    """Writes passages one after the other; `end` then says where each is."""

    def __init__(self, folder: Path, vectors: VectorsKept, opened: ExitStack) -> None:
        """`opened` closes the files."""
        self._folder, self._vectors = folder, vectors
        self._files: dict[str, BinaryIO] = {
            name: opened.enter_context((folder / name).open("wb"))
            for name in (RECORDS, TOKEN_IDS, VECTORS, *((SCALES,) if vectors == "int8" else ()), RANKS)
        }
        self._places = array("q", [0, 0, 0])  # for the last one's end, as for the others

    def add(self, passage: Passage) -> None:
        record = [passage.id, passage.source_id, passage.text, passage.metadata]
        num_bytes = self._files[RECORDS].write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._files[TOKEN_IDS].write(np.asarray(passage.token_ids, "<i4").tobytes())
        if self._vectors == "int8":
            numbers, scales = quantised(passage.vectors)
            self._files[VECTORS].write(numbers.numpy().tobytes())
            self._files[SCALES].write(scales.numpy().astype("<f4").tobytes())
        else:
            bits = passage.vectors.to(torch.bfloat16).contiguous().view(torch.int16)
            self._files[VECTORS].write(bits.numpy().astype("<i2").tobytes())
        if passage.ranks is not None:
            self._files[RANKS].write(passage.ranks.numpy().astype("<i4").tobytes())
        added = num_bytes, len(passage.token_ids), passage.vectors.shape[0]
        self._places.extend([before + more for before, more in zip(self._places[-3:], added, strict=True)])

    def end(self) -> None:
        np.save(self._folder / PLACES, np.frombuffer(self._places, np.int64).reshape(-1, 3))

    @property
    def num_vectors(self) -> int:
        return self._places[-1]


class Reader:
    """Reads passages by their numbers, from 0."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """
        Raises:
            ValueError, OSError: the files are not those of the manifest.
        """
        self._places: NDArray[np.int64] = np.load(folder / PLACES, mmap_mode="r")
        if self._places.shape != (manifest.num_passages + 1, 3) or self._places[-1, 2] != manifest.num_vectors:
            raise ValueError(f"{str(folder / PLACES)!r} is of another index: make it again")
        width, is_int8 = manifest.width, manifest.vectors == "int8"
        self._records = np.memmap(folder / RECORDS, np.uint8, "r")
        self._token_ids = np.memmap(folder / TOKEN_IDS, "<i4", "r")
        shape = (manifest.num_vectors, width)
        self._vectors = np.memmap(folder / VECTORS, np.int8 if is_int8 else np.dtype("<i2"), "r", shape=shape)
        self._scales = np.memmap(folder / SCALES, "<f4", "r") if is_int8 else None
        has_ranks = manifest.sizes.get(RANKS, 0) > 0  # an empty file cannot be mapped
        self._ranks = np.memmap(folder / RANKS, "<i4", "r") if has_ranks else None

    def read(self, numbers: Sequence[int]) -> list[Passage]:
        """Copies of these passages, in memory of their own."""
        return [self._passage(number) for number in numbers]

    def _passage(self, number: int) -> Passage:
        (record, token, vector), (record_end, token_end, vector_end) = self._places[number : number + 2].tolist()
        id_, source_id, text, metadata = json.loads(self._records[record:record_end].tobytes())
        ranks = self._ranks
        return Passage(
            id_,
            source_id,
            text,
            metadata,
            tuple(self._token_ids[token:token_end].tolist()),
            self._read_vectors(slice(vector, vector_end)),
            None if ranks is None else torch.from_numpy(ranks[vector:vector_end].astype(np.int64)),
        )

    def _read_vectors(self, place: slice) -> Tensor:
        numbers = torch.from_numpy(np.array(self._vectors[place]))
        if self._scales is None:
            return numbers.view(torch.bfloat16)
        return dequantised(numbers, torch.from_numpy(np.array(self._scales[place])), torch.bfloat16)


def write(passages: Iterable[Passage], folder: Path, vectors: VectorsKept) -> int:
    """Write all of them into a folder; how many vectors they have together."""
    with ExitStack() as opened:
        writer = Writer(folder, vectors, opened)
        for passage in passages:
            writer.add(passage)
        writer.end()
    return writer.num_vectors
