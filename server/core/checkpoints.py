"""Which checkpoint is served, and the name it is served under."""

import logging
from pathlib import Path

import torch

import model
from model import AutoCompressor
from model.bases.known import BaseUnavailable
from model.checkpoint import PlainModel

logger = logging.getLogger(__name__)

BUNDLED = Path(model.__file__).parent
UNTRAINED_SEGMENT, UNTRAINED_VECTORS = 128, 16  # tokens and vectors of a segment, as the default's


def open_checkpoint(
    name: str, data: Path | None, *, dtype: torch.dtype, device: torch.device
) -> tuple[str, AutoCompressor]:
    """Load a bundled checkpoint by its name, or any other by its path or hub id; with the name it is served under.

    `default` is an adapter: where its base is not on this machine `paper` takes its place, which holds its own. A plain
    language model is served with vectors that nothing was trained for.

    Args:
        data: the directory of bases; None for this user's.

    Raises:
        ValueError, OSError: as `AutoCompressor.from_pretrained`.
    """
    if name == "default":
        try:
            return _served(name), AutoCompressor.from_pretrained(_bundled(name), data=data, dtype=dtype, device=device)
        except BaseUnavailable as error:
            logger.warning("%s; serving the small `paper` model instead", error)
            name = "paper"
    is_bundled = name == "paper"
    path = _bundled(name) if is_bundled else Path(name)
    try:
        compressor = AutoCompressor.from_pretrained(path if is_bundled else name, data=data, dtype=dtype, device=device)
    except PlainModel:
        compressor = _untrained(name, dtype=dtype, device=device)
    return _served(name) if is_bundled else path.name, compressor


def _untrained(name: str, *, dtype: torch.dtype, device: torch.device) -> AutoCompressor:
    """A plain language model as one that compresses without training; ValueError where it has too few positions."""
    logger.warning(
        "%s is a plain language model: its vectors are its own words' embeddings, untrained, and keep a small part of "
        "what a trained adapter's keep; `autocompressor train` makes one",
        name,
    )
    return AutoCompressor.from_base(
        name,
        UNTRAINED_VECTORS,
        segment_length=UNTRAINED_SEGMENT,
        compressor="anchored",
        dtype=dtype,
        device=device,
    )


def _served(name: str) -> str:
    return f"autocompressor-{name}"


def _bundled(name: str) -> Path:
    directory = BUNDLED / name
    if not directory.is_dir():
        raise BaseUnavailable(f"this installation has no checkpoint {directory}")
    return directory
