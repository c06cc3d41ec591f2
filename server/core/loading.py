"""The models that are served: loaded, named, and described for whoever asks."""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from transformers.utils import logging as transformers_logging

from model import AutoCompressor
from model.shared_bases import SharedBases
from server.core.checkpoints import open_checkpoint, own_name
from server.core.long_texts import LongTexts
from server.core.served_model import ServedModel
from server.engine.torch.devices import choose_device, choose_dtype
from server.engine.torch.memory import device_bytes
from server.settings import Settings

logger = logging.getLogger(__name__)

SAMPLED_BY = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load_models(settings: Settings) -> list[tuple[AutoCompressor, ServedModel]]:
    """Load the checkpoints that the settings name, on the device and in the format they choose; the first one first.

    Raises:
        ValueError, OSError: one cannot be served, has another's name or is another.
    """
    transformers_logging.disable_progress_bar()  # nor the hub's: in a log nobody watches one
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    if settings.engine == "vllm":
        device = torch.device("cpu")  # vLLM loads it by itself; what stays here are its ends
    _require_different([*set(settings.other_names), *(name or own_name(path) for name, path in settings.checkpoints)])
    bases = SharedBases(device_bytes(device))
    loaded: list[tuple[AutoCompressor, ServedModel]] = []
    for given, path in settings.checkpoints:
        try:
            own, compressor = open_checkpoint(path, settings.data, bases=bases, dtype=dtype, device=device)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"the checkpoint {path} does not fit the device {device}: {error}") from error
        if compressor.summary_length == 0:
            raise ValueError(f"the checkpoint {path} has summary_length 0: it compresses nothing")
        if compressor.tokenizer is None:
            raise ValueError(f"the checkpoint {path} has no tokenizer")
        loaded.append((compressor, served_model(compressor, settings, name=given or own)))
    # once more, as the default may have become another
    _require_different([*set(settings.other_names), *(served.name for _, served in loaded)])
    return _as_neighbours(loaded)


def _require_different(names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"two models would be served as {name!r}; NAME=CHECKPOINT in other_models gives one another name"
            )
        seen.add(name)


def _as_neighbours(loaded: list[tuple[AutoCompressor, ServedModel]]) -> list[tuple[AutoCompressor, ServedModel]]:
    """The same models, each of which knows the others; ValueError where two are one."""
    names: dict[str, str] = {}
    for _, served in loaded:
        other = names.setdefault(served.fingerprint, served.name)
        if other != served.name:
            raise ValueError(f"{served.name!r} and {other!r} are the same model; aliases gives the first other names")
    long_texts = LongTexts()
    return [(compressor, replace(served, neighbours=names, long_texts=long_texts)) for compressor, served in loaded]


def sampling_of(compressor: AutoCompressor) -> dict[str, float]:
    """How a model's generation_config says that its tokens are to be drawn."""
    named = {name: getattr(compressor.base.generation_config, name, None) for name in SAMPLED_BY}
    return {name: value for name, value in named.items() if value}  # transformers' 0 is off, as its None is


def served_model(compressor: AutoCompressor, settings: Settings, *, name: str) -> ServedModel:
    """What the server is to know of a model that is loaded."""
    positions = compressor.positions
    # OPT's positions leave its soft prompts out, the rows of the KV pool do not
    whole = positions.max_positions * (1 if positions.counts_soft_prompt else 2)
    served = ServedModel(
        name=name,
        fingerprint=compressor.fingerprint,
        config=compressor.config,
        positions=positions,
        max_sequence_tokens=min(settings.max_sequence_tokens or whole, whole),
        vocabulary_size=compressor.base.config.vocab_size,
        hidden_size=compressor.hidden_size,
        dtype=str(compressor.dtype).removeprefix("torch."),
        device=str(compressor.device),
        created=int(time.time()),
        tokenizer=compressor.tokenizer,
        document_limit=settings.max_document_tokens,
        is_trained=compressor.is_trained,
        sampling=sampling_of(compressor),
        rounds_vectors=settings.stored_vectors == "int8",
    )
    if served.tokeniser.num_ids > served.vocabulary_size:
        logger.warning(
            "the tokenizer has ids up to %d and the model %d embeddings: a text with a token beyond those is refused",
            served.tokeniser.num_ids - 1,
            served.vocabulary_size,
        )
    return served
