"""The decoder of Llama and its likes on a CPU, with few passes over memory between its products."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from server.engine.torch.attention import Options, PackedAttention
from server.engine.torch.packed_linear import PackedLayers, can_pack
from server.engine.torch.products import Layout, Product
from server.engine.torch.roles import Roles

# whose layers are: norm, attention with rotary positions, added; norm, SwiGLU, added
DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")


class RmsNorm:
    """x / sqrt(mean(x²) + eps) * weight (arXiv 1910.07467), in float32 until the result is rounded."""

    def __init__(self, norm: Any) -> None:
        """Of one of transformers' norms."""
        self._weight, self._dtype = norm.weight, norm.weight.dtype
        self._eps = torch.full((1,), norm.variance_epsilon, dtype=torch.float32)

    def __call__(self, states: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        states = states.float()
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        scale = torch.addcmul(self._eps, length, length, value=1 / states.shape[-1]).rsqrt_()
        return torch.mul(states, scale).mul_(self._weight).to(self._dtype)


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the positions of a batch, (T, 1, d) each; of the sines the first half is negative."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor) -> "Rotation":
        """From transformers', (1, T, d)."""
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        return cls(cos[0, :, None], signed[:, None])

    def __call__(self, heads: Tensor) -> Tensor:
        """(T, heads, d), turned."""
        return torch.mul(heads, self.cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), self.sin)


class FusedLayer:
    """One layer of a decoder.

    Attributes:
        held: the modules with its weights.
    """

    def __init__(self, layer: Any, sliding_window: int | None, layers: PackedLayers) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index = attention.layer_idx
        self._options = Options(attention.scaling, sliding_window)
        self._width = attention.head_dim
        self._num_turned = attention.config.num_attention_heads + attention.config.num_key_value_heads
        self._num_queries = attention.config.num_attention_heads
        head_norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
        self._head_norms = [RmsNorm(norm) for norm in head_norms]
        self._before_attention = RmsNorm(layer.input_layernorm)
        self._heads = Product([attention.q_proj, attention.k_proj, attention.v_proj], layers)
        self._mixed = Product([attention.o_proj], layers)
        self._before_mlp = RmsNorm(layer.post_attention_layernorm)
        self._gate, self._up, self._down = (
            Product([each], layers) for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )

        products = (self._heads, self._mixed, self._gate, self._up, self._down)
        norms = (layer.input_layernorm, layer.post_attention_layernorm, *head_norms)
        self.held = nn.ModuleList([*(part for product in products for part in product.parts), *norms])

    def __call__(self, states: Tensor, layout: Layout, rotation: Rotation, attention: PackedAttention) -> Tensor:
        """(N, D) to (N, D), N rows as they lie in `layout`."""
        heads = layout.gathered(self._heads(self._before_attention(states), layout))
        heads = heads.view(len(heads), -1, self._width)  # (T, H + 2 K, d)
        turned, value = heads[:, : self._num_turned], heads[:, self._num_turned :]
        if self._head_norms:
            parts = turned[:, : self._num_queries], turned[:, self._num_queries :]
            turned = torch.cat([norm(part) for norm, part in zip(self._head_norms, parts, strict=True)], dim=1)
        turned = rotation(turned)
        query, key = turned[:, : self._num_queries], turned[:, self._num_queries :]
        mixed = attention.attend(self._index, query, key, value, self._options)
        states = self._mixed(layout.spread(mixed.flatten(1)), layout, plus=states)
        read = self._before_mlp(states)
        gate = self._gate(read, layout, activation="swish")
        return self._down(self._up(read, layout, times=gate), layout, plus=states)


class FusedDecoder:
    """The layers of a decoder, its last norm, and its rotary positions, which are transformers' own."""

    def __init__(self, decoder: Any, roles: Roles, layers: PackedLayers) -> None:
        """Take the layers of a decoder that `can_fuse`, which holds the weights from then on, and cannot run."""
        self._roles = roles
        self._rotary = decoder.rotary_emb
        self._norm = RmsNorm(decoder.norm)
        self._layers = [FusedLayer(layer, _window(layer.self_attn), layers) for layer in decoder.layers]
        decoder.layers = nn.ModuleList(layer.held for layer in self._layers)

    def forward(
        self, embeds: Tensor, positions: Tensor, attention: PackedAttention, wanted: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Of a batch (T, D) the last hidden states, and those after each of the wanted layers, numbered from 1.

        As transformers has it, those after the last layer are the last hidden states.
        """
        layout = Layout.of(self._roles, len(embeds))
        rotation = Rotation.of(*self._rotary(embeds[None], positions[None]))
        states, after = layout.spread(embeds), {}
        for number, layer in enumerate(self._layers, start=1):
            states = layer(states, layout, rotation, attention)
            if number in wanted:
                after[number] = layout.gathered(states)
        after[len(self._layers)] = hidden = layout.gathered(self._norm(states))
        return hidden, [after[number] for number in wanted]


def can_fuse(decoder: Any) -> bool:
    """Whether a decoder is one of those whose layers are known, on a CPU and all in a format that can be packed."""
    if type(decoder).__name__ not in DECODERS or not type(decoder).__module__.startswith("transformers."):
        return False
    config = decoder.config
    first = decoder.layers[0]
    is_rotated_whole = 2 * len(decoder.rotary_emb.inv_freq) == first.self_attn.head_dim
    return config.hidden_act == "silu" and is_rotated_whole and all(map(_can_pack_all, decoder.layers))


def _can_pack_all(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    products = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    linears = [getattr(each, "plain", each) for each in (*products, mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    return all(type(linear) is nn.Linear and can_pack(linear) for linear in linears)


def _window(attention: Any) -> int | None:
    """As the attention's forward tells transformers' interface."""
    if type(attention).__name__ == "MistralAttention":
        window: int | None = attention.config.sliding_window
        return window
    return getattr(attention, "sliding_window", None)
