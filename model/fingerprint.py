"""A name for exactly these weights and this configuration: summaries of one model mean nothing to another."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from model.config import SummaryConfig

# What the shapes of the weights do not show. A fixed list, not the whole configuration: that gains fields with each
# release of transformers, and an upgrade must not orphan stored summaries.
BASE_FIELDS = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "hidden_activation",
    "use_parallel_residual",
    "do_layer_norm_before",
    "max_position_embeddings",
)


def fingerprint(module: nn.Module, summary_config: SummaryConfig, base_config: Any) -> str:
    """SHA-256, in hex, of every parameter (name, dtype, shape, bytes) and of what the configurations add.

    The dtype counts: float32 and bfloat16 copies of one checkpoint compute different summary vectors. The segment
    length does not for summary tokens: it changes where documents are cut, not what a segment's vectors are.
    """
    digest = hashlib.sha256()
    facts = {field: getattr(base_config, field, None) for field in BASE_FIELDS}
    summary = dict(summary_config.facts)
    if summary_config.compressor == "summary_tokens":
        del summary["segment_length"]
    digest.update(json.dumps([facts, summary], sort_keys=True, default=str).encode())
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(tensor_bytes(parameter))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # arrays are buffers from numpy 2.4 on
