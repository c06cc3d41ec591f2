"""A corpus that is served: an index on the disk, opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from model.bm25 import Passages
from server.core.corpora import nearest
from server.core.corpora.manifest import Manifest, read_manifest
from server.core.corpora.nearest import Nearest
from server.core.corpora.passages import Passage, Reader
from server.errors import CorpusNotFound, Internal, InvalidRequest

WORDS = "words"


class Corpus:
    """Finds and reads passages; its methods read the disk, and are for threads."""

    def __init__(self, name: str, manifest: Manifest, words: Passages, near: Nearest | None, reader: Reader) -> None:
        self.name = name
        self.manifest = manifest
        self._words = words
        self._nearest = near
        self._reader = reader

    @classmethod
    def open(cls, name: str, folder: Path) -> "Corpus":
        """
        Raises:
            ValueError, OSError: no whole index is there, or one that needs faiss, which is not installed.
        """
        manifest = read_manifest(folder)
        near = None
        if manifest.nearest is not None:
            near = Nearest.open(folder / nearest.NAME, manifest.num_passages, manifest.width)
        try:
            words = Passages.open(folder / WORDS, manifest.num_passages)
            reader = Reader(folder, manifest)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:  # numpy's would have it unpickled
            raise ValueError(f"{str(folder)!r} is damaged: make it again") from error
        return cls(name, manifest, words, near, reader)

    def by_words(self, query: str, count: int) -> list[tuple[int, float]]:
        """The passages that share words with a query, and their BM25 scores, the best first."""
        return self._words.matches(query, count)

    def by_distance(self, mean: Tensor, count: int) -> list[tuple[int, float]]:
        """The passages whose vectors' mean is near this one, (D,), and their distances, the nearest first."""
        assert self._nearest is not None
        return self._nearest.matches(mean, count)

    def require_nearest(self) -> None:
        """Refuse what this corpus has no index for."""
        if self._nearest is None:
            raise InvalidRequest(
                f"the corpus {self.name!r} has no index of nearest neighbours: make it again with "
                "`autocompressor index --nearest`, or search by 'bm25'",
                param="by",
            )

    def read(self, numbers: Sequence[int]) -> list[Passage]:
        """Copies of these passages; Internal where one is not what was written."""
        try:
            return self._reader.read(numbers)
        except (ValueError, TypeError) as error:
            raise Internal(f"a passage of the corpus {self.name!r} is damaged: make the index again") from error


@dataclass(frozen=True)
class Corpora:
    """Those that are served, by name; any caller may search them, and none can change them."""

    by_name: Mapping[str, Corpus] = field(default_factory=dict)

    def named(self, name: str) -> Corpus:
        """CorpusNotFound where none has this name."""
        if name not in self.by_name:
            served = ", ".join(map(repr, self.by_name)) or "none"
            raise CorpusNotFound(f"there is no corpus {name!r}; served: {served}", param="corpus")
        return self.by_name[name]

    def require_models(self, names: Mapping[str, str]) -> None:
        """ValueError where a corpus is of none of the models that are served, whose names these are by fingerprint."""
        for corpus in self.by_name.values():
            if corpus.manifest.fingerprint not in names:
                raise ValueError(
                    f"the corpus {corpus.name!r} is of model {corpus.manifest.fingerprint!r}, and served are "
                    + ", ".join(f"{fingerprint!r} ({name})" for fingerprint, name in names.items())
                )


def open_corpora(folders: Sequence[tuple[str, Path]]) -> Corpora:
    """Open the indexes that a server is to have, by their names; ValueError where one cannot be served."""
    opened = {}
    for name, folder in folders:
        try:
            opened[name] = Corpus.open(name, folder)
        except (ValueError, OSError) as error:
            raise ValueError(f"the corpus {name!r} cannot be served: {error}") from error
    return Corpora(opened)
