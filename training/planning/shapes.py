"""The widths of a decoder's layers, and one of the layers."""

from dataclasses import dataclass

from torch import nn

from model import AutoCompressor


@dataclass(frozen=True)
class DecoderShape:
    """Widths of a decoder's layers, by whichever name a configuration gives them."""

    hidden: int
    intermediate: int
    heads: int
    query_width: int
    kv_width: int

    @classmethod
    def of(cls, model: AutoCompressor) -> "DecoderShape":
        config = model.base.config
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        intermediate = getattr(config, "intermediate_size", None) or config.ffn_dim
        return cls(config.hidden_size, intermediate, heads, heads * head_dim, kv_heads * head_dim)


def first_layer(model: AutoCompressor) -> nn.Module:
    for module in model.base.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.base.config.num_hidden_layers:
            return module[0]
    raise ValueError(f"{type(model.base).__name__} has no list of {model.base.config.num_hidden_layers} layers")
