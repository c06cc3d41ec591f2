"""A checkpoint's directory: where it is, what of it is ours, and who may read it."""

import stat
from pathlib import Path

from huggingface_hub import snapshot_download

FOLDER = "autocompressor"  # ours; other loaders read only the directory's top level
DOWNLOADED = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*.bin", f"{FOLDER}/*"]


def resolve(path: str | Path, *, revision: str | None = None) -> Path:
    """The local directory of a checkpoint: the path itself, or a snapshot of the hub repository of that name.

    Args:
        revision: a branch, tag or commit of the repository; None for its newest.

    Raises:
        FileNotFoundError: neither is there.
    """
    directory = Path(path)
    if directory.is_dir():
        return directory
    if directory.is_absolute() or str(path).startswith("."):
        raise FileNotFoundError(f"there is no directory {path}")
    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=DOWNLOADED))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no directory {path}, and no hub repository of that name could be fetched"
        ) from error


def share_weights(directory: Path) -> None:
    """Give weight files the mode of the `config.json` beside them: safetensors leaves them to their owner alone."""
    mode = stat.S_IMODE((directory / "config.json").stat().st_mode)
    for file in directory.rglob("*.safetensors"):
        file.chmod(mode)
