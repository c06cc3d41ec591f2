"""The first layers of a base as a checkpoint of their own: vLLM gives the states after a model's last layer alone."""

import copy
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model import AutoCompressor
from model.checkpoint import plain_state

LAYERS, NORM = "layers", "norm"  # as Llama and those after it name them
TOLERANCE = 1e-5


@torch.no_grad()
def write_cut(compressor: AutoCompressor, layer: int, directory: Path) -> Path:
    """Write a base of so many layers, whose last hidden states have the direction of the whole one's after that layer.

    Their length is another: the norm at the end cannot be left out, and scales them to a root mean square of 1. What
    reads them must not mind, as `model.compressors.anchored.Bridge` does not.

    Raises:
        ValueError: an architecture with other names, or with a norm that does more than scale.
    """
    base = compressor.base
    kind = type(base).__name__
    decoder: Any = base.base_model
    if not isinstance(getattr(decoder, LAYERS, None), nn.ModuleList) or not hasattr(decoder, NORM):
        raise ValueError(f"vectors of {kind} need its states after layer {layer}, and its layers cannot be cut there")
    prefix = f"{base.base_model_prefix}."
    norm = f"{prefix}{NORM}.weight"
    state = {name: tensor for name, tensor in plain_state(compressor).items() if _is_within(name, prefix, layer)}
    state[norm] = _plain_weight(getattr(decoder, NORM), kind)
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = layer
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layer]
    config.architectures = [kind]
    config.save_pretrained(directory)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _is_within(name: str, prefix: str, layer: int) -> bool:
    """Whether a weight is of the decoder's, and of its first layers if it is of a layer."""
    found = re.match(rf"{re.escape(prefix)}{LAYERS}\.(\d+)\.", name)
    return name.startswith(prefix) and (found is None or int(found[1]) < layer)


def _plain_weight(norm: nn.Module, kind: str) -> Tensor:
    """The weight with which a norm scales to a root mean square of 1: ones, or zeros where it adds 1 itself."""
    own = norm.weight.data
    assert isinstance(own, Tensor)
    states = torch.randn(4, own.shape[0], generator=torch.Generator().manual_seed(0)) * 3 + 1
    expected = states * torch.rsqrt(states.square().mean(dim=-1, keepdim=True))
    plain = copy.deepcopy(norm).float()
    for weight in (torch.ones_like(own), torch.zeros_like(own)):
        plain.weight.data = weight.float()
        if torch.allclose(plain(states), expected, rtol=0, atol=TOLERANCE):
            return weight
    raise ValueError(f"vectors of {kind} need its states before its last norm, which does more than scale them")
