"""What an index of a corpus says of itself, in a file of its folder."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

NAME = "corpus.json"
FORMAT = "autocompressor-corpus-1"
VectorsKept = Literal["bfloat16", "int8"]


@dataclass(frozen=True)
class Manifest:
    """Of which passages an index is, and of what.

    Attributes:
        fingerprint: of the model that made the vectors, `width` numbers each.
        vectors: as which they are kept.
        nearest: faiss's description of the index over their means; None where there is none.
        parts: of bulk compression that it was made of, the digest of each one's rows by its name.
        sizes: bytes of each of the other files, by their paths in the folder.
    """

    fingerprint: str
    num_passages: int
    num_vectors: int
    width: int
    vectors: VectorsKept
    nearest: str | None
    parts: dict[str, str]
    sizes: dict[str, int]

    @property
    def digest(self) -> str:
        """What tells it from an index of other passages, or with other vectors of them."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:40]

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


_manifest = TypeAdapter(Manifest)


def sizes_of(folder: Path) -> dict[str, int]:
    """Of the files in a folder at any depth, by their paths in it; the manifest's own is left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index, all of whose files are there.

    Raises:
        ValueError: it is no index, one of another format, or a file of it is missing or cut off.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    try:
        read = json.loads((folder / NAME).read_text())
        if read.pop("format") != FORMAT:
            raise ValueError
        manifest = _manifest.validate_json(json.dumps(asdict(Manifest(**read))), strict=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"the folder {str(folder)!r} has no index that `autocompressor index` finished") from None
    there = sizes_of(folder)
    for name, size in manifest.sizes.items():
        if there.get(name) != size:
            found = "missing" if name not in there else f"{there[name]} bytes long"
            raise ValueError(f"{str(folder / name)!r} is {found}, and the index has {size} bytes there: make it again")
    return manifest
