"""vLLM's arguments: those that follow from this server's settings, and those that whoever starts it adds."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.limits import MAX_LOGPROBS

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for max_lora_rank


@dataclass(frozen=True)
class Facts:
    """What all instances of a server share.

    Attributes:
        model: the directory of the base. dtype: as torch names it.
        max_positions: of the model, which a segment and the vectors before it may take.
        max_tokens: positions of a prompt and its answer, as many or fewer.
        max_sequences, max_batch_tokens: of one step.
        adapter_rank, adapter_modules: of the adapter that reads vectors, and the names of the layers that it adapts;
            None and () where there is none.
    """

    model: Path
    dtype: str
    max_positions: int
    max_tokens: int
    max_sequences: int
    max_batch_tokens: int
    adapter_rank: int | None = None
    adapter_modules: tuple[str, ...] = ()

    def shared(self) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "dtype": self.dtype,
            "skip_tokenizer_init": True,  # texts are tokenised here, so that they read alike whatever the engine
            "enable_prompt_embeds": True,
            "max_num_seqs": self.max_sequences,
            "max_num_batched_tokens": max(self.max_batch_tokens, self.max_sequences),
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "generation_config": "vllm",  # none: defaults of a checkpoint are in the request by then
        }

    def generating(self) -> dict[str, Any]:
        """Of the instance that continues prompts."""
        lora: dict[str, Any] = {}
        if self.adapter_rank is not None:
            lora = {
                "enable_lora": True,
                "max_loras": 1,
                "max_lora_rank": _least_rank(self.adapter_rank),
                # without it vLLM wraps the embeddings, too, which fail beside embeddings that a prompt brings
                "lora_target_modules": list(self.adapter_modules),
            }
        return {
            **self.shared(),
            "runner": "generate",
            "max_model_len": self.max_tokens + 1,  # the last token is never read, so it needs no position
            "logprobs_mode": "raw_logprobs",
            "max_logprobs": MAX_LOGPROBS,
            **lora,
        }

    def pooling(self) -> dict[str, Any]:
        """Of the instance whose rows are last hidden states."""
        return {
            **self.shared(),
            "runner": "pooling",
            "convert": "embed",
            "enable_chunked_prefill": True,
            "max_model_len": self.max_positions,
        }

    @property
    def names(self) -> set[str]:
        """Of arguments that are not for whoever starts the server, as they follow from its settings."""
        return {
            *self.generating(),
            *self.pooling(),
            "tokenizer",
            "enable_lora",
            "max_loras",
            "max_lora_rank",
            "lora_target_modules",
        }


def parse_arguments(text: str, *, known: Collection[str], taken: Collection[str]) -> Mapping[str, Any]:
    """Arguments as NAME=VALUE with commas between, values being JSON where they can be, or as a JSON object.

    Args:
        known: the names that vLLM has. taken: those that this server sets itself.

    Raises:
        ValueError: it is neither form, or has a name that vLLM lacks, or one that is taken.
    """
    arguments = _read(text.strip())
    for name in arguments:
        if name not in known:
            raise ValueError(f"engine_args has {name!r}, which this vLLM does not know")
        if name in taken:
            raise ValueError(f"engine_args has {name!r}, which follows from this server's own settings")
    return arguments


def _read(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        try:
            read: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"engine_args is not a JSON object: {error}") from error
        return read
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    for name, sign, _ in pairs:
        if not sign:
            raise ValueError(f"engine_args has {name.strip()!r} without a value: NAME=VALUE, or a JSON object")
    return {name.strip().replace("-", "_"): _value(value.strip()) for name, _, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a word
        return {"True": True, "False": False, "None": None}.get(text, text)


def _least_rank(rank: int) -> int:
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise ValueError(f"the reading adapter has rank {rank}; vLLM takes up to {LORA_RANKS[-1]}")
