"""Checkpoint directories: ours, and the layouts the authors published."""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import SummaryConfig

if TYPE_CHECKING:
    from model.autocompressor import AutoCompressor

FOLDER = "autocompressor"  # other loaders read only the directory's top level
SUMMARY_FILE = "summary_embeddings.safetensors"
WEIGHT = "embed_summary.weight"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
DOWNLOADED = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*.bin", f"{FOLDER}/*"]


@dataclass(frozen=True)
class Parts:
    """What a checkpoint adds to its base model.

    `segment_length` is None where it does not say, `embed_summary` where there are no summary tokens.
    """

    summary_length: int
    accumulate_summary: bool
    segment_length: int | None
    embed_summary: Tensor | None


def resolve(path: str | Path) -> Path:
    """The local directory of a checkpoint: the path itself, or a snapshot of the hub repository of that name."""
    directory = Path(path)
    if directory.is_dir():
        return directory
    if directory.is_absolute() or str(path).startswith("."):
        raise FileNotFoundError(f"there is no directory {path}")
    try:
        return Path(snapshot_download(str(path), allow_patterns=DOWNLOADED))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no directory {path}, and no hub repository of that name could be fetched"
        ) from error


def read_parts(directory: Path) -> Parts:
    """Read our subfolder, or the fields and the weight that the authors' checkpoints keep among the base's.

    Raises:
        FileNotFoundError: the directory holds no checkpoint at all.
        ValueError: neither is there.
    """
    if (directory / FOLDER).is_dir():
        config = SummaryConfig.read(directory / FOLDER / "config.json")
        weight = load_file(directory / FOLDER / SUMMARY_FILE).get(WEIGHT)
        if weight is None:
            raise ValueError(f"{directory / FOLDER / SUMMARY_FILE} has no {WEIGHT}")
        return Parts(config.summary_length, config.accumulate_summary, config.segment_length, weight)
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory} holds no checkpoint: it has no config.json")
    published = json.loads((directory / "config.json").read_text())
    for field in ("summary_length", "accumulate_summary"):
        if field not in published:
            raise ValueError(
                f"{directory} is a plain language model: it has no {FOLDER} folder and its config.json no {field}; "
                f"AutoCompressor.from_base makes a compressor of it"
            )
    summary_length = int(published["summary_length"])
    weight = read_tensor(directory, WEIGHT) if summary_length else None
    return Parts(summary_length, bool(published["accumulate_summary"]), None, weight)


def read_tensor(directory: Path, name: str) -> Tensor:
    """One tensor of a checkpoint, whichever file holds it; pickled files are read with `weights_only`.

    Raises:
        ValueError: no file has it.
    """
    for index in INDEXES:
        if (directory / index).is_file():
            files = json.loads((directory / index).read_text())["weight_map"]
            if name in files:
                return _load(directory / files[name])[name]
    for file in SINGLE_FILES:
        if (directory / file).is_file():
            tensors = _load(directory / file)
            if name in tensors:
                return tensors[name]
    raise ValueError(f"no weight file in {directory} has {name}")


def write(directory: Path, model: "AutoCompressor", *, max_shard_size: str | None) -> None:
    """Write what `AutoCompressor.save_pretrained` promises; an existing checkpoint there is replaced."""
    options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.base.save_pretrained(directory, **options)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(directory)
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    model.config.write(folder / "config.json")
    save_file({WEIGHT: model.embed_summary.weight.detach().cpu()}, folder / SUMMARY_FILE)
    share_weights(directory)


def share_weights(directory: Path) -> None:
    """Give weight files the mode of the `config.json` beside them: safetensors leaves them to their owner alone."""
    mode = stat.S_IMODE((directory / "config.json").stat().st_mode)
    for file in [*directory.glob("*.safetensors"), *directory.glob(f"{FOLDER}/*.safetensors")]:
        file.chmod(mode)


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
