"""Tiny models with random weights, one of each supported architecture, and what goes into them."""

from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from model import AutoCompressor
from model.adapter import Adapter
from training.data.documents import TokenisedDocuments
from training.data.tokenizer import train_tokenizer
from training.recipes.recipe import Base, Compression, Precision, Recipe, Stage

FAMILIES = ("opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gpt_neox")
END_OF_TEXT_ID = 0
HIDDEN_SIZE = 32
WEIGHT_SCALE = 0.2  # ten times the usual: the logits of different tokens must lie far apart

TEXT = """The lighthouse keeper wrote one line a day. On Monday: wind from the north, eleven ships, no fog.
On Tuesday the fog came, and the line was shorter. Who counts ships that nobody can see? By the end of the
winter the book held ninety lines, and a reader who had the ninety lines had the winter: the two wrecks, the
visit of the inspector (who liked the stove and disliked the stairs), the week without bread, the white cat.
"A book that keeps everything is a sea," said the keeper; "a book that keeps the right things is a chart."
Größe, naïve, 東京, 1234567890, 3.14159, x = [i**2 for i in range(10)]; and so the page ends.
"""


def tiny_config(family: str, *, max_positions: int = 128, vocabulary_size: int = 320) -> PreTrainedConfig:
    """Two layers, hidden size 32, no dropout; token 0 starts and ends a text, and no token is padding."""
    shared: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": max_positions,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": None,
    }
    rotary = shared | {"intermediate_size": 64, "initializer_range": WEIGHT_SCALE}
    grouped = rotary | {"num_key_value_heads": 2}
    match family:
        case "opt":
            sizes = {"ffn_dim": 64, "word_embed_proj_dim": HIDDEN_SIZE, "init_std": WEIGHT_SCALE}
            return OPTConfig(**shared, **sizes, dropout=0.0, attention_dropout=0.0)
        case "llama":
            return LlamaConfig(**grouped)
        case "mistral":
            return MistralConfig(**grouped, sliding_window=None)
        case "qwen2":
            return Qwen2Config(**grouped)
        case "qwen3":
            return Qwen3Config(**grouped, head_dim=16)
        case "gemma":
            # untied: a random model whose output layer is its embeddings repeats its last token for ever
            return GemmaConfig(**(rotary | {"num_key_value_heads": 1}), head_dim=16, tie_word_embeddings=False)
        case "gpt_neox":
            return GPTNeoXConfig(**rotary)
        case _:
            raise ValueError(f"there is no family {family!r}; there are: {', '.join(FAMILIES)}")


def tiny_base(family: str, *, seed: int = 0, max_positions: int = 128, vocabulary_size: int = 320) -> PreTrainedModel:
    """A causal LM in float32, in evaluation mode, every parameter of it random."""
    return random_base(tiny_config(family, max_positions=max_positions, vocabulary_size=vocabulary_size), seed=seed)


def random_base(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in base.parameters():
            if parameter.dim() == 1:  # norms and biases start out all equal, which would hide one taken for another
                parameter.add_(torch.randn_like(parameter), alpha=WEIGHT_SCALE)
    return base.eval()


def tiny_compressor(
    family: str = "llama",
    *,
    summary_length: int = 4,
    accumulate_summary: bool = True,
    segment_length: int = 16,
    seed: int = 0,
    max_positions: int = 128,
    vocabulary_size: int = 320,
    dtype: torch.dtype = torch.float32,
) -> AutoCompressor:
    """An AutoCompressor on a tiny base, with a tokenizer and summary embeddings that all differ."""
    model = AutoCompressor.from_base(
        tiny_base(family, seed=seed, max_positions=max_positions, vocabulary_size=vocabulary_size),
        summary_length,
        accumulate_summary,
        segment_length=segment_length,
        tokenizer=tiny_tokenizer(vocabulary_size),
    )
    randomise_summary_embeddings(model, seed=seed)
    for parameter in model.parameters():  # not `model.to`: it would round the rotary frequencies, as loading does not
        parameter.data = parameter.data.to(dtype)
    return model.eval()


@torch.no_grad()
def tiny_anchored(
    family: str = "llama",
    *,
    summary_length: int = 4,
    segment_length: int = 16,
    seed: int = 0,
    max_positions: int = 128,
) -> AutoCompressor:
    """A compressor of anchored vectors on a tiny base, whose bridge and reading adapter do something."""
    base = tiny_base(family, seed=seed, max_positions=max_positions)
    model = AutoCompressor.from_base(
        base, summary_length, segment_length=segment_length, compressor="anchored", tokenizer=tiny_tokenizer()
    )
    names = {"opt": ("q_proj", "fc1"), "gpt_neox": ("query_key_value", "dense_h_to_4h")}
    model.adapter = Adapter.put_into(base, names.get(family, ("q_proj", "up_proj")), rank=2, alpha=4)
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in (model.bridge.states.weight, *model.adapter.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
    return model.eval()


@torch.no_grad()
def randomise_summary_embeddings(model: AutoCompressor, *, seed: int = 0) -> None:
    weight = model.embed_summary.weight
    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + 1)) * WEIGHT_SCALE)


def tiny_recipe() -> Recipe:
    """A training recipe of a second or two, in float32; change it with `dataclasses.replace`."""
    shape = {
        "vocab_size": 320,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    return Recipe(
        name="tiny",
        base=Base("llama", shape),
        pretraining=Stage(
            tokens=20 * 4 * 32,
            sequence_tokens=32,
            batch_sequences=4,
            micro_batch_sequences=4,
            learning_rate=1e-2,
            matrix_learning_rate=2e-2,
            warmup_steps=2,
        ),
        adaptation=Stage(
            tokens=10 * 2 * 64,
            sequence_tokens=64,
            batch_sequences=2,
            micro_batch_sequences=2,
            learning_rate=1e-2,
            matrix_learning_rate=1e-2,
            warmup_steps=2,
        ),
        compression=Compression(
            summary_length=3,
            substeps=2,
            segments_per_substep=2,
            max_segment_tokens=24,
            segment_length=20,
        ),
        precision="no",
    )


def forget_accelerator() -> None:
    """Drop the state that accelerate keeps in the process, so that the next Accelerator may be another."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def cpu_accelerator(precision: Precision = "no") -> Accelerator:
    """A new Accelerator of this process alone."""
    forget_accelerator()
    return Accelerator(mixed_precision=precision, cpu=True)


def repetitive_documents(num_documents: int = 4, document_tokens: int = 275) -> TokenisedDocuments:
    """Documents that say the same eleven tokens over and over."""
    tokens = np.tile(np.arange(20, 31, dtype=np.uint16), -(-num_documents * document_tokens // 11))
    starts = np.arange(num_documents + 1) * document_tokens
    return TokenisedDocuments(tokens[: starts[-1]], starts, "repetitive.jsonl")


@cache
def tiny_tokenizer(vocabulary_size: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of a few merges, whose token 0 is `<|endoftext|>`; one object, shared by all tests."""
    tokenizer = train_tokenizer([TEXT], vocabulary_size=vocabulary_size, max_positions=128)
    assert len(tokenizer) == vocabulary_size, f"the text gives {len(tokenizer)} tokens only"
    return tokenizer


def random_ids(batch: int, length: int, *, seed: int = 0, vocabulary_size: int = 320) -> Tensor:
    """(batch, length) token ids, the end-of-text token not among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(END_OF_TEXT_ID + 1, vocabulary_size, (batch, length), generator=generator)
