"""An index of a corpus from the output of bulk compression: its words, its passages, and what is near to what."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model.atomic import written_aside
from model.bm25 import Passages
from server.bulk.parts import Note, Parts
from server.core.corpora import manifest, nearest, passages
from server.core.corpora.corpus import WORDS
from server.core.corpora.manifest import Manifest, VectorsKept
from server.core.corpora.nearest import Nearest
from server.core.corpora.passages import Passage

MEANS = "means.npy"


@dataclass(frozen=True)
class Wanted:
    """What an index is to have. `nearest`: faiss's description of the index over means; None for none."""

    vectors: VectorsKept = "bfloat16"
    nearest: str | None = None


def build(sources: Sequence[str], folder: Path, wanted: Wanted) -> Manifest:
    """Make the index of all passages in these outputs of bulk compression, each a folder or a URL.

    Raises:
        ValueError: one of them is not finished, damaged, without texts, of another model than the others or given
            twice; there is no passage; or `folder` is there already.
        OSError: one cannot be read, or the index not be written.
    """
    if folder.exists():
        raise ValueError(f"{str(folder)!r} is there already: name a new folder")
    found = [_Part(parts, name) for parts in map(Parts, sources) for name in parts.finished()]
    num_passages = sum(part.note.num_rows for part in found)
    if not num_passages:
        raise ValueError(f"there is no passage in {', '.join(sources)}")
    fingerprint = _fingerprint(found)
    _require_different(found)
    with written_aside(folder) as aside:
        aside.mkdir()
        means = aside / MEANS  # within what the next run removes where this one is killed
        given = _Given(found, num_passages, means if wanted.nearest else None)
        num_vectors = passages.write(given, aside, wanted.vectors)
        Passages(given.texts, shows_progress=True).save(aside / WORDS)
        if wanted.nearest is not None:
            assert given.means is not None
            Nearest.made(given.means, wanted.nearest).save(aside / nearest.NAME)
            means.unlink()
        made = Manifest(
            fingerprint=fingerprint,
            num_passages=num_passages,
            num_vectors=num_vectors,
            width=given.width,
            vectors=wanted.vectors,
            nearest=wanted.nearest,
            parts={part.name: part.note.digest for part in found},
            sizes=manifest.sizes_of(aside),
        )
        made.write(aside)
    return made


class _Part:
    """A part and what it tells of itself."""

    def __init__(self, folder: Parts, name: str) -> None:
        self.folder, self.name = folder, name
        self.note: Note = folder.told(name)


class _Given:
    """The passages of parts, in order; what the rest of the index is made of is kept on the way.

    Attributes:
        texts: of those that came.
        width: of their vectors. means: of them, (N, D), in a file; None where they are not wanted.
    """

    def __init__(self, parts: Sequence[_Part], num_passages: int, means_path: Path | None) -> None:
        self._parts = parts
        self._num_passages = num_passages
        self._means_path = means_path
        self.texts: list[str] = []
        self.width = 0
        self.means: NDArray[np.float32] | None = None

    def __iter__(self) -> Iterator[Passage]:
        with tqdm(total=self._num_passages, desc="indexing", unit=" passages") as progress:
            for part in self._parts:
                for row in part.folder.rows(part.name):
                    passage = _passage(row)
                    self._keep(passage)
                    yield passage
                    progress.update()

    def _keep(self, passage: Passage) -> None:
        self.width = passage.vectors.shape[1]
        if self._means_path is not None:
            if self.means is None:
                shape = (self._num_passages, self.width)
                self.means = np.lib.format.open_memmap(self._means_path, mode="w+", dtype=np.float32, shape=shape)
            self.means[len(self.texts)] = passage.vectors.float().mean(dim=0).numpy()
        self.texts.append(passage.text)


def _require_different(parts: Sequence[_Part]) -> None:
    """Refuse a part that comes twice, by two spellings of its folder or by a copy of it."""
    for name, count in Counter(part.name for part in parts).items():
        if count > 1:
            raise ValueError(f"{name} comes {count} times: its passages would be in the index as often")


def _fingerprint(parts: Sequence[_Part]) -> str:
    """Of the one model that made all of them."""
    first: dict[str, str] = {}
    for part in parts:
        first.setdefault(part.note.fingerprint, part.name)
    if len(first) > 1:
        (one, name), (other, other_name), *_ = first.items()
        raise ValueError(f"{name} is of model {one!r} and {other_name} of {other!r}: an index is of one model")
    return next(iter(first))


def _passage(row: dict[str, Any]) -> Passage:
    if row["text"] is None or row["token_ids"] is None:
        raise ValueError(f"the text of {row['source_id']!r} was not kept: run `autocompressor bulk` with --keep-text")
    vectors = torch.frombuffer(bytearray(row["vectors"]), dtype=torch.bfloat16)
    return Passage(
        id=row["id"],
        source_id=row["source_id"],
        text=row["text"],
        metadata=dict(row["metadata"]),
        token_ids=tuple(row["token_ids"]),
        vectors=vectors.view(row["num_vectors"], row["width"]),
        ranks=None if row["ranks"] is None else torch.tensor(row["ranks"]),
    )
