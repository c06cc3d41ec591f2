"""Which checkpoint is served, and the name it is served under."""

import logging
from functools import partial
from pathlib import Path

import torch

import model
from model import AutoCompressor
from model.bases.known import BaseUnavailable, resolve_base
from model.checkpoint import PlainModel
from model.shared_bases import SharedBases

logger = logging.getLogger(__name__)

BUNDLED = Path(model.__file__).parent
BUNDLED_NAMES = ("default", "paper")
UNTRAINED_SEGMENT, UNTRAINED_VECTORS = 128, 16  # tokens and vectors of a segment, as the default's


def own_name(name: str) -> str:
    """The name that `open_checkpoint` gives, where nothing has to take the default's place."""
    return _served(name) if name in BUNDLED_NAMES else Path(name).name


def open_checkpoint(
    name: str, data: Path | None, *, bases: SharedBases | None = None, dtype: torch.dtype, device: torch.device
) -> tuple[str, AutoCompressor]:
    """Load a bundled checkpoint by its name, or any other by its path or hub id; with the name it is served under.

    `default` is an adapter: where its base is not on this machine `paper` takes its place, which holds its own. A plain
    language model is served with vectors that nothing was trained for.

    Args:
        data: the directory of bases; None for this user's.
        bases: of the other models that are served.

    Raises:
        ValueError, OSError: as `AutoCompressor.from_pretrained`.
    """
    bases = bases or SharedBases()
    load = partial(AutoCompressor.from_pretrained, data=data, bases=bases, dtype=dtype, device=device)
    if name == "default":
        try:
            return _served(name), load(_bundled(name))
        except BaseUnavailable as error:
            logger.warning("%s; serving the small `paper` model instead", error)
            name = "paper"
    try:
        compressor = load(_bundled(name) if name in BUNDLED_NAMES else name)
    except PlainModel:
        compressor = _untrained(name, bases, dtype=dtype, device=device)
    return own_name(name), compressor


def _untrained(name: str, bases: SharedBases, *, dtype: torch.dtype, device: torch.device) -> AutoCompressor:
    """A plain language model as one that compresses without training; ValueError where it has too few positions."""
    logger.warning(
        "%s is a plain language model: its vectors are its own words' embeddings, untrained, and keep a small part of "
        "what a trained adapter's keep; `autocompressor train` makes one",
        name,
    )
    base, tokenizer = bases.load(str(resolve_base(name)), dtype=dtype, device=device)
    return AutoCompressor.from_base(
        base, UNTRAINED_VECTORS, segment_length=UNTRAINED_SEGMENT, compressor="anchored", tokenizer=tokenizer
    )


def _served(name: str) -> str:
    return f"autocompressor-{name}"


def _bundled(name: str) -> Path:
    directory = BUNDLED / name
    if not directory.is_dir():
        raise BaseUnavailable(f"this installation has no checkpoint {directory}")
    return directory
