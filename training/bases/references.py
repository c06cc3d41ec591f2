"""Which base a name or a checkpoint stands for, and how a checkpoint names it."""

from pathlib import Path

from model.bases.known import BaseUnavailable, base_directory, find_base, known_bases, resolve_base
from model.bases.reference import BaseReference, weights_digest
from model.checkpoint import BASE_FILE, Parts, read_parts
from model.checkpoint_directory import FOLDER


def plain_base(path: Path) -> Path:
    """The base of a checkpoint that does not hold one, and any other directory itself.

    Raises:
        FileNotFoundError, ValueError: as `find_base` says.
    """
    file = path / FOLDER / BASE_FILE
    return find_base(BaseReference.read(file)) if file.is_file() else path


def config_source(reference: str) -> str:
    """Where transformers finds a base's configuration; no weights are fetched for it from the hub."""
    is_here = Path(reference).is_dir() or reference in known_bases()
    names = {base.hub: base.name for base in known_bases().values()}
    if reference in names:
        try:
            return str(base_directory(names[reference]))
        except BaseUnavailable:
            return reference
    return str(plain_base(resolve_base(reference))) if is_here else reference


def reference_of(name: str, directory: Path) -> BaseReference:
    """How an adapter checkpoint names its base: the hub's name of one that comes by pip, which all machines know.

    Args:
        directory: the base, or a checkpoint that names it already.
        name: as it was asked for, a path, or a hub id with `@REVISION` or without.
    """
    file = directory / FOLDER / BASE_FILE
    if file.is_file():
        return BaseReference.read(file)
    digest = weights_digest(directory)
    for base in known_bases().values():
        if base.weights == digest and config_source(base.hub) != base.hub:
            return BaseReference(base.hub, None, digest)
    if Path(name).is_dir():
        return BaseReference(str(Path(name).resolve()), None, digest)
    hub, _, revision = name.partition("@")
    return BaseReference(hub, revision or None, digest)


def parts_of(path: Path) -> Parts | None:
    """What of ours is in a base's directory; None in a plain language model's."""
    try:
        return read_parts(path)
    except ValueError:
        return None
