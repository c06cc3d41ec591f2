"""Bases that several models stand on: each is read once, and every model on it has the same weights."""

import copy
import math
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.base import load_base

PATTERNS = ("*.safetensors", "*.bin")


class SharedBases:
    """Reads bases as `load_base` does, and keeps what it read for the next model: while it lives, so do the weights."""

    def __init__(self, max_bytes: int | None = None) -> None:
        """`max_bytes`: of the weights of all bases together; None for any number."""
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._read: dict[
            tuple[Path, torch.dtype | None, str], tuple[PreTrainedModel, PreTrainedTokenizerBase | None]
        ] = {}

    def load(
        self, path: str, *, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """A base of the caller's own over weights that others may have, too, and its tokenizer, which is one for all.

        Raises:
            ValueError: as `load_base`; or the weights are more than `max_bytes`, which is seen before they are read.
            OSError: as `load_base`.
        """
        key = (Path(path).resolve(), dtype, str(device))
        if key not in self._read:
            self._require_room(key[0], dtype)
            self._read[key] = load_base(path, dtype=dtype, device=device)
        base, tokenizer = self._read[key]
        return sharing(base), tokenizer

    def _require_room(self, directory: Path, dtype: torch.dtype | None) -> None:
        self._num_bytes += weights_bytes(directory, dtype)
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            raise ValueError(
                f"with the base at {directory} the weights have {self._num_bytes / 1e9:.1f} GB, and there are "
                f"{self._max_bytes / 1e9:.1f} GB of memory for all"
            )


def weights_bytes(directory: Path, dtype: torch.dtype | None) -> int:
    """Of a directory's weights in this format, None for their own; of pickled ones, the size of their files."""
    if dtype is None:
        return sum(file.stat().st_size for pattern in PATTERNS for file in directory.glob(pattern))
    num_bytes = sum(file.stat().st_size for file in directory.glob(PATTERNS[1]))
    for file in directory.glob(PATTERNS[0]):
        with suppress(SafetensorError), safe_open(file, framework="pt") as tensors:  # told of where it is loaded
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no mapping
            num_bytes += dtype.itemsize * sum(map(math.prod, shapes))
    return num_bytes


def sharing(base: PreTrainedModel) -> PreTrainedModel:
    """Another model over the same weights: what is put in a layer's place in one is not in the other."""
    tensors = [*base.parameters(), *base.buffers()]
    other: PreTrainedModel = copy.deepcopy(base, memo={id(tensor): tensor for tensor in tensors})
    return other
