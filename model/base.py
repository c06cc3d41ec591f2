"""The base model: a Hugging Face causal language model, checked and split into decoder and output layer."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

REQUIRED_ARGUMENTS = ("inputs_embeds", "attention_mask", "position_ids")
OUR_WEIGHTS = r"^embed_summary\."  # beside the base's in the authors' checkpoints


def load_base(
    path: str, *, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a causal LM and its tokenizer, None where the directory has none.

    Raises:
        ValueError: weights that the architecture needs are missing from the checkpoint, or damaged.
        OSError: no checkpoint at `path`, as transformers reports it.
    """
    try:
        with _without_bars():
            model, report = _load(path, dtype="auto" if dtype is None else dtype)
    except SafetensorError as error:
        raise ValueError(f"the weights at {path} are damaged: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"the checkpoint at {path} lacks {len(missing)} weights, {missing[0]} among them")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError):  # transformers has no single error for "there is no tokenizer here"
        tokenizer = None
    if tokenizer is not None and not tokenizer.vocab_size:  # what it makes of an OPT directory without one
        tokenizer = None
    return model.to(device).eval() if device is not None else model.eval(), tokenizer


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers' bars off, and on again afterwards where they were: what others load is not ours to silence."""
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()


def _load(path: str, *, dtype: torch.dtype | str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A causal LM and transformers' report of what is missing or left over."""
    kind = _published_kind(path)
    options = {"dtype": dtype, "output_loading_info": True}
    if kind is None:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(path, **options)
        return loaded
    # transformers warns of weights that a class does not name: load by one that names ours, then be the plain one again
    ignored = [*(kind._keys_to_ignore_on_load_unexpected or ()), OUR_WEIGHTS]
    naming = {"_keys_to_ignore_on_load_unexpected": ignored, "__module__": kind.__module__}
    named: Any = type(kind.__name__, (kind,), naming)
    model, report = named.from_pretrained(path, **options)
    model.__class__ = kind
    return model, report


def _published_kind(path: str) -> type[PreTrainedModel] | None:
    """The base's class of a checkpoint in the authors' layout, which has our weights beside the base's."""
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError:  # told of where it is loaded
        return None
    kind: type[PreTrainedModel] | None = None
    if hasattr(config, "summary_length"):
        kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return kind


def require_supported(base: PreTrainedModel) -> None:
    """Refuse a model that the wrapper cannot drive.

    Raises:
        ValueError: the architecture does not take embeddings, a mask and positions, or its logits are more than its
            output layer applied to its last hidden states.
    """
    name = type(base).__name__
    if not isinstance(base, PreTrainedModel) or base.get_output_embeddings() is None:
        raise ValueError(f"{name} is not a Hugging Face causal language model with an output layer")
    accepted = inspect.signature(base.base_model.forward).parameters
    for argument in REQUIRED_ARGUMENTS:
        if argument not in accepted:
            raise ValueError(f"{name} cannot take `{argument}`, which soft prompts need: it cannot be a base model")
    is_capped = getattr(base.config, "final_logit_softcapping", None) is not None
    if is_capped or (base.device.type != "meta" and not _logits_are_plain(base)):
        raise ValueError(f"{name} changes its logits after the output layer, which this wrapper does not reproduce")


@torch.no_grad()
def _logits_are_plain(base: PreTrainedModel) -> bool:
    """Whether `output_layer(decoder(embeddings))` gives the model's own logits, seen on two tokens."""
    was_training = base.training
    base.eval()
    input_ids = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    expected = base(input_ids=input_ids, use_cache=False).logits
    hidden = base.base_model(inputs_embeds=base.get_input_embeddings()(input_ids), use_cache=False).last_hidden_state
    base.train(was_training)
    tolerance = 1e-5 if base.dtype == torch.float32 else 1e-2
    return torch.allclose(output_layer(base)(hidden).float(), expected.float(), rtol=tolerance, atol=tolerance)


def output_layer(base: PreTrainedModel) -> nn.Module:
    """The layer that turns last hidden states (..., D) into logits (..., V)."""
    layer: nn.Module = base.get_output_embeddings()
    return layer


def embedding_width(base: PreTrainedModel) -> int:
    """D, the width of input embeddings, last hidden states and so of summary vectors (arXiv 2305.14788, 3.1).

    It is `hidden_size` but for OPT-350m, whose embeddings and output are projected (`word_embed_proj_dim`).
    """
    weight: Tensor = base.get_input_embeddings().weight
    return weight.shape[1]


def state_widths(base: PreTrainedModel, layers: tuple[int, ...]) -> tuple[int, ...]:
    """The widths of the states after these layers, numbered from 1; the last layer's are last hidden states.

    Raises:
        ValueError: the base has no layer of such a number.
    """
    num_layers: int = base.config.num_hidden_layers
    for layer in layers:
        if not 1 <= layer <= num_layers:
            raise ValueError(f"there is no layer {layer}: the base has {num_layers}")
    return tuple(embedding_width(base) if layer == num_layers else base.config.hidden_size for layer in layers)


def first_token_id(config: Any, name: str) -> int | None:
    """A token id that transformers keeps as an int, a list of ints or None."""
    value = getattr(config, name, None)
    return value[0] if isinstance(value, list) else value
