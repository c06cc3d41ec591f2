"""Low-rank adapters (LoRA, arXiv 2106.09685) that are on for some passes of a model and off for others.

Kept in peft's own format, so that peft reads what is written here and the other way round. peft itself is left to
training: its layers cast what they read to the adapter's own format, which on a CPU costs a multiple of the pass.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # peft's names
PREFIX = "base_model.model."  # peft's, before the name of a module
# what peft can do and this does not: each changes what a layer computes
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "fan_in_fan_out",
)


@dataclass
class Switch:
    """Whether the adapters of a model are on; one for all of its layers."""

    is_on: bool = False


class AdaptedLinear(nn.Module):
    """A linear layer, to which `scale * B A` is added while its switch is on."""

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, switch: Switch) -> None:
        super().__init__()
        self.linear = linear
        self.scale = scale
        self._switch = switch
        weight = linear.weight
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features, device=weight.device, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=weight.device, dtype=torch.float32))
        if weight.device.type != "meta":
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # peft's start

    @property
    def weight(self) -> Tensor:
        """The base's own, which other code asks a layer for."""
        return self.linear.weight

    def forward(self, states: Tensor) -> Tensor:
        plain: Tensor = self.linear(states)
        if not self._switch.is_on:
            return plain
        inner = functional.linear(states, self.lora_a.to(states.dtype))
        up = (self.lora_b * self.scale).to(states.dtype)
        return torch.addmm(plain.flatten(0, -2), inner.flatten(0, -2), up.t()).view_as(plain)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with the adapter in it, (out, in), summed in float32 and in the base's format."""
        delta = self.scale * (self.lora_b.float() @ self.lora_a.float())
        return (self.linear.weight.float() + delta).to(self.linear.weight.dtype)


class Adapter:
    """The adapted layers of one base and their switch; the layers hold the weights."""

    def __init__(self, layers: dict[str, AdaptedLinear], switch: Switch, *, rank: int, alpha: float) -> None:
        self.layers, self.rank, self.alpha = layers, rank, alpha
        self._switch = switch

    @classmethod
    def put_into(cls, base: nn.Module, modules: tuple[str, ...], *, rank: int, alpha: float) -> "Adapter":
        """Replace the linear layers of these names in a base by adapted ones, which begin as what they replace.

        Raises:
            ValueError: the base has no linear layer of one of the names.
        """
        if rank < 1:
            raise ValueError(f"the adapter's rank is {rank}; it must be 1 or more")
        switch = Switch()
        layers = {}
        for name, module in list(base.named_modules()):
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in modules:
                layers[name] = AdaptedLinear(module, rank=rank, scale=alpha / rank, switch=switch)
                parent, _, child = name.rpartition(".")
                setattr(base.get_submodule(parent), child, layers[name])
        for wanted in modules:
            if not any(name.rpartition(".")[2] == wanted for name in layers):
                raise ValueError(f"{type(base).__name__} has no linear layer {wanted!r} to adapt")
        return cls(layers, switch, rank=rank, alpha=alpha)

    @contextmanager
    def on(self, is_on: bool = True) -> Iterator[None]:
        """Have the adapters on, or as `is_on` says, within the block; for one thread at a time."""
        before, self._switch.is_on = self._switch.is_on, is_on
        try:
            yield
        finally:
            self._switch.is_on = before

    def let_go(self) -> None:
        """Forget the layers, once others compute in their place: their weights go with them."""
        self.layers = {}

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the layers, without where they are."""
        return tuple(sorted({name.rpartition(".")[2] for name in self.layers}))

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_a, layer.lora_b)]

    def save(self, directory: Path, *, base: str) -> None:
        """Write it as peft does, in bfloat16; `base` names the model that it belongs to."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(self.modules),
        }
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {
            f"{PREFIX}{name}.{part}.weight": weight.detach().to("cpu", torch.bfloat16).contiguous()
            for name, layer in self.layers.items()
            for part, weight in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b))
        }
        save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def load(cls, directory: Path, base: nn.Module) -> "Adapter":
        """Put a stored adapter into a base.

        Raises:
            ValueError: it is damaged, of a kind that is not known here, or of layers or shapes that the base lacks.
            FileNotFoundError: one of its files is not there.
        """
        config = _read_config(directory / CONFIG_FILE)
        weights = _read_weights(directory / WEIGHTS_FILE)
        adapter = cls.put_into(base, tuple(config["target_modules"]), rank=config["r"], alpha=config["lora_alpha"])
        adapter._take(weights, directory / WEIGHTS_FILE)
        return adapter

    @torch.no_grad()
    def _take(self, weights: dict[str, Tensor], path: Path) -> None:
        wanted = {
            f"{PREFIX}{name}.{part}.weight": weight
            for name, layer in self.layers.items()
            for part, weight in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b))
        }
        for name in sorted(wanted.keys() ^ weights.keys()):
            where = f"{path} lacks" if name in wanted else "the base has no layer for"
            raise ValueError(f"the adapter is not of this base: {where} {name}")
        for name, weight in wanted.items():
            if weight.shape != weights[name].shape:
                raise ValueError(
                    f"the adapter is not of this base: {name} is {tuple(weights[name].shape)}, "
                    f"and the base needs {tuple(weight.shape)}"
                )
            weight.copy_(weights[name])


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"the adapter has no {path}")
    config = json.loads(path.read_text())
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{path} is not of a LoRA adapter")
    for option in UNSUPPORTED:
        if config.get(option):
            raise ValueError(f"{path} has {option}, which is not supported")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{path} has bias {config['bias']!r}; only 'none' is supported")
    for field in ("r", "lora_alpha", "target_modules"):
        if not config.get(field) or isinstance(config[field], str):
            raise ValueError(f"{path} has no list or number {field}")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"the adapter has no {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
