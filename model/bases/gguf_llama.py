"""A Llama out of a GGUF file, as a plain Hugging Face checkpoint in bfloat16."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from model.bases.gguf_tokenizer import tokenizer_of
from model.checkpoint_directory import share_weights

# gguf's names, as gguf-py/gguf/tensor_mapping.py has them
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NAMES_IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class GgufLlama:
    """A model that was read; `weights` in bfloat16 under transformers' names."""

    config: LlamaConfig
    weights: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def read(cls, path: Path) -> "GgufLlama":
        """Dequantise a file.

        transformers reads these files too, but only with accelerate installed, and keeps the quantisation in what it
        saves.

        Raises:
            ValueError: another architecture or tokenizer, or weights that do not fit the file's own figures.
        """
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        config = _config_of(metadata, is_tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
        weights = {}
        for tensor in reader.tensors:
            weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
            weights[_name_of(tensor.name)] = _reordered(tensor.name, weight, config).to(torch.bfloat16)
        _require_complete(weights, config)
        return cls(config, weights, tokenizer_of(metadata, max_positions=config.max_position_embeddings))

    def save(self, directory: Path) -> None:
        """Write a checkpoint that any Hugging Face loader reads, for all who may read its configuration."""
        self.config.save_pretrained(directory)
        ends = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        GenerationConfig(**ends).save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        save_file(self.weights, directory / "model.safetensors", metadata={"format": "pt"})
        share_weights(directory)


def _config_of(metadata: Mapping[str, Any], *, is_tied: bool) -> LlamaConfig:
    architecture = metadata["general.architecture"]
    scaling = [name for name in metadata if name.startswith("llama.rope.scaling.")]
    if architecture != "llama" or scaling:
        found = ", ".join([architecture, *scaling])
        raise ValueError(f"the file holds a model of the kind {found}; supported is llama, its positions not scaled")
    width, num_heads = metadata["llama.embedding_length"], metadata["llama.attention.head_count"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=num_heads,
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        head_dim=width // num_heads,
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings=is_tied,
        **{f"{role}_token_id": metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")},
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _shortest(single: float) -> float:
    """The number that was rounded to float32 when the file was written: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(single)))


def _name_of(name: str) -> str:
    """transformers' name of a tensor; one unknown keeps its own, and is refused with what is left over."""
    match name.split("."):
        case ["blk", layer, part, kind] if part in NAMES_IN_LAYERS:
            return f"model.layers.{layer}.{NAMES_IN_LAYERS[part]}.{kind}"
        case [part, kind] if part in NAMES:
            return f"{NAMES[part]}.{kind}"
    return name


def _reordered(name: str, weight: Tensor, config: LlamaConfig) -> Tensor:
    """Rows of queries and keys in transformers' order: a file has the two halves of a head, which rotate together,
    interleaved (`permute` in llama.cpp's convert_hf_to_gguf.py)."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, num_heads in heads.items():
        if f".{part}." in name:
            halves: Tensor = weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2)  # (heads, 2, head / 2, D)
            return halves.flatten(0, 2)
    return weight


def _require_complete(weights: Mapping[str, Tensor], config: LlamaConfig) -> None:
    with torch.device("meta"):
        expected = {name: weight.shape for name, weight in LlamaForCausalLM(config).named_parameters()}
    found = {name: weight.shape for name, weight in weights.items()}
    if found != expected:
        wrong = sorted(name for name, _ in found.items() ^ expected.items())
        raise ValueError(f"the file's weights do not fit its figures: {wrong[0]} and {len(wrong) - 1} more")
