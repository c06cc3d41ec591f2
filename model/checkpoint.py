"""Checkpoints, read and written: our layout, and those that the authors published."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.bases.reference import BaseReference
from model.checkpoint_directory import FOLDER, share_weights
from model.config import SummaryConfig
from model.segment_model import SegmentModel

SUMMARY_FILE = "summary_embeddings.safetensors"
BRIDGE_FILE = "bridge.safetensors"
ADAPTER_FOLDER = "reader"  # in ours, in peft's format
BASE_FILE = "base.json"  # in ours, where the base is not in the directory
GENERATION_FILE = "generation_config.json"  # transformers' own, beside ours
WEIGHT = "embed_summary.weight"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


class PlainModel(ValueError):
    """A checkpoint of a language model that nothing of ours was added to."""


@dataclass(frozen=True)
class Parts:
    """What a checkpoint adds to its base model.

    Attributes:
        weights: the writer's own, by their names in the model.
        adapter: the folder that has the reading adapter, None where there is none.
        base: names the base where it is not in the directory itself.
        generation: what a checkpoint without its base says of how it is sampled, in transformers' terms.
        has_segment_length: whether the segment length of `config` is the checkpoint's, which may not say.
    """

    config: SummaryConfig
    weights: dict[str, Tensor]
    adapter: Path | None = None
    base: BaseReference | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    has_segment_length: bool = True


def read_parts(directory: Path) -> Parts:
    """Read our subfolder, or the fields and the weight that the authors' checkpoints keep among the base's.

    Raises:
        FileNotFoundError: the directory holds no checkpoint at all.
        ValueError: neither is there.
    """
    if (directory / FOLDER).is_dir():
        return _read_folder(directory / FOLDER)
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory} holds no checkpoint: it has no config.json")
    published = json.loads((directory / "config.json").read_text())
    for name in ("summary_length", "accumulate_summary"):
        if name not in published:
            raise PlainModel(
                f"{directory} is a plain language model: it has no {FOLDER} folder and its config.json no {name}; "
                f"AutoCompressor.from_base makes a compressor of it"
            )
    summary_length = int(published["summary_length"])
    weights = {WEIGHT: read_tensor(directory, WEIGHT)} if summary_length else {}
    # the segment length is set once the base is there
    config = SummaryConfig(summary_length, bool(published["accumulate_summary"]), segment_length=1)
    return Parts(config, weights, has_segment_length=False)


def _read_folder(folder: Path) -> Parts:
    """Our own part of a checkpoint.

    Raises:
        ValueError, FileNotFoundError: a file is missing, damaged, or without what it should have.
    """
    config = SummaryConfig.read(folder / "config.json")
    file = folder / (SUMMARY_FILE if config.compressor == "summary_tokens" else BRIDGE_FILE)
    if not file.is_file():
        raise FileNotFoundError(f"the checkpoint has no {file}")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if config.compressor == "summary_tokens" and WEIGHT not in weights:
        raise ValueError(f"{file} has no {WEIGHT}")
    adapter = folder / ADAPTER_FOLDER
    base = folder / BASE_FILE
    generation = folder.parent / GENERATION_FILE
    return Parts(
        config,
        weights,
        adapter if adapter.is_dir() else None,
        BaseReference.read(base) if base.is_file() else None,
        json.loads(generation.read_text()) if base.is_file() and generation.is_file() else {},
    )


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


def write(directory: Path, model: SegmentModel, *, max_shard_size: str | None) -> None:
    """Write what `AutoCompressor.save_pretrained` promises; an existing checkpoint there is replaced."""
    options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.base.save_pretrained(directory, state_dict=plain_state(model), **options)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(directory)
    write_parts(directory, model, base="..")
    (directory / FOLDER / BASE_FILE).unlink(missing_ok=True)
    share_weights(directory)


def write_adapter(directory: Path, model: SegmentModel, base: BaseReference) -> None:
    """Write a checkpoint without its base: what was trained, and which base it belongs to."""
    directory.mkdir(parents=True, exist_ok=True)
    write_parts(directory, model, base=base.name)
    base.write(directory / FOLDER / BASE_FILE)
    share_weights(directory / FOLDER)


def write_parts(directory: Path, model: SegmentModel, *, base: str) -> None:
    """Write what is ours of a checkpoint into its folder."""
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    model.config.write(folder / "config.json")
    file = SUMMARY_FILE if model.config.compressor == "summary_tokens" else BRIDGE_FILE
    save_file({name: weight.detach().cpu().contiguous() for name, weight in model.own_weights().items()}, folder / file)
    if model.adapter is not None:
        model.adapter.save(folder / ADAPTER_FOLDER, base=base)


def plain_state(model: SegmentModel) -> dict[str, Tensor]:
    """The base's weights under the names that it has without an adapter in it."""
    state: dict[str, Tensor] = model.base.state_dict()
    for name in () if model.adapter is None else model.adapter.layers:
        for part in ("lora_a", "lora_b"):
            del state[f"{name}.{part}"]
        for part in ("weight", "bias"):
            if f"{name}.linear.{part}" in state:
                state[f"{name}.{part}"] = state.pop(f"{name}.linear.{part}")
    return state


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
