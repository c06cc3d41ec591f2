"""The model a run adapts: pretrained here from a shape, or loaded and, where asked, given more positions."""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from model import AutoCompressor
from model.base import load_base
from model.bases.known import BaseUnavailable, base_directory, find_base, known_bases, resolve_base
from model.bases.reference import BaseReference, weights_digest
from model.checkpoint import BASE_FILE, Parts, read_parts
from model.checkpoint_directory import FOLDER
from training.recipe import Base

logger = logging.getLogger(__name__)


def new_base(base: Base, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """A model of the recipe's shape with random weights, in float32; the seed sets them."""
    end = tokenizer.eos_token_id
    config = base.config(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def loaded_base(base: Base, path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base at a path or hub id, and its tokenizer.

    Raises:
        ValueError: it has no tokenizer, or its positions cannot be extended as the recipe says.
    """
    model, tokenizer = load_base(path, dtype=getattr(torch, base.dtype), device=None)
    if tokenizer is None:
        raise ValueError(f"{path} has no tokenizer")
    if base.max_positions is not None:
        extend_positions(model, base.max_positions)
    return model, tokenizer


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


def take_over(model: AutoCompressor, parts: Parts, path: Path) -> None:
    """Go on with the summary embeddings, or the bridge, of a base that is an AutoCompressor of the same kind itself."""
    config = replace(parts.config, segment_length=model.segment_length)
    if config.compressor != "summary_tokens":  # the bridge has no weights for each vector
        config = replace(config, summary_length=model.summary_length)
    if parts.weights and config == model.config:
        model.take_weights(parts.weights, path)
        what = "summary embeddings" if config.compressor == "summary_tokens" else "bridge"
        logger.info("going on with the %s of %s", what, path)
    elif config.summary_length:
        logger.warning("the summary vectors of %s are of another kind: what writes them starts anew", path)


@torch.no_grad()
def extend_positions(model: PreTrainedModel, max_positions: int) -> None:
    """Let a model read longer sequences: rotary positions go on counting, OPT's table is repeated whole.

    The second is what the authors do for their full-attention baseline (`--max_position_embeddings`).

    Raises:
        ValueError: fewer positions than it has, or for OPT no multiple of them.
    """
    present = model.config.max_position_embeddings
    if max_positions < present:
        raise ValueError(f"the base has {present} positions; they can be extended, not cut to {max_positions}")
    if model.config.model_type == "opt":
        times, rest = divmod(max_positions, present)
        if rest:
            raise ValueError(f"OPT's table of {present} positions is repeated whole: {max_positions} is no multiple")
        old = model.model.decoder.embed_positions
        new = type(old)(max_positions, old.embedding_dim).to(old.weight.device, old.weight.dtype)
        new.weight.copy_(torch.cat([old.weight[: old.offset], old.weight[old.offset :].repeat(times, 1)]))
        model.model.decoder.embed_positions = new
    elif _has_table(model, present):
        raise ValueError(f"the learned positions of {model.config.model_type} cannot be extended")
    model.config.max_position_embeddings = max_positions


def _has_table(model: PreTrainedModel, num_positions: int) -> bool:
    """Whether positions are looked up in a table: an embedding of so many rows that is not of the tokens."""
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return any(table.num_embeddings == num_positions for table in tables if table is not model.get_input_embeddings())
