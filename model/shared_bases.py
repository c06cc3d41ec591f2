"""Bases that several models stand on: each is read once, and every model on it has the same weights."""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.base import load_base


class SharedBases:
    """Reads bases as `load_base` does, and keeps what it read for the next model: while it lives, so do the weights."""

    def __init__(self) -> None:
        self._read: dict[
            tuple[Path, torch.dtype | None, str], tuple[PreTrainedModel, PreTrainedTokenizerBase | None]
        ] = {}

    def load(
        self, path: str, *, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """A base of the caller's own over weights that others may have, too, and its tokenizer, which is one for all.

        Raises as `load_base`.
        """
        key = (Path(path).resolve(), dtype, str(device))
        if key not in self._read:
            self._read[key] = load_base(path, dtype=dtype, device=device)
        base, tokenizer = self._read[key]
        return sharing(base), tokenizer


def sharing(base: PreTrainedModel) -> PreTrainedModel:
    """Another model over the same weights: what is put in a layer's place in one is not in the other."""
    tensors = [*base.parameters(), *base.buffers()]
    other: PreTrainedModel = copy.deepcopy(base, memo={id(tensor): tensor for tensor in tensors})
    return other
