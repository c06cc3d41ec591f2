"""What people would use instead: transformers, on the same weights."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from benchmarks.machine import matmul_rate


class Transformers:
    """`generate`, continuous batching and a plain forward pass of a causal language model, and the matmul rate.

    In a process of its own: two threads of one process that both compute on all cores make one another slow.
    """

    def __init__(self, model: Path, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._process = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def generate(self, embeds: Tensor, max_tokens: int) -> float:
        """Tokens a second of `generate` on prompts (B, T, D) of one length."""
        return self._call(_generate, embeds, max_tokens)

    def generate_batch(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> float:
        """Tokens a second of continuous batching, which takes no vectors: token prompts of the same length."""
        return self._call(_generate_batch, prompts, max_tokens)

    def forward(self, batches: Sequence[Tensor], *, has_logits: bool = False) -> float:
        """Seconds of plain forward passes, one after the other, of (B, T, D) embeddings.

        Args:
            has_logits: those of every position are computed too, as a causal language model's `forward` does.
        """
        return self._call(_forward, batches, has_logits)

    def matmul_rate(self) -> float:
        """As `machine.matmul_rate`, in the model's dtype."""
        return self._process.submit(matmul_rate, self._dtype).result()

    def _call(self, function: Callable[..., float], *arguments: object) -> float:
        return self._process.submit(function, self._model, self._dtype, *arguments).result()


@cache
def _load(model: Path, dtype: torch.dtype) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return loaded.eval()


@torch.inference_mode()
def _generate(model: Path, dtype: torch.dtype, embeds: Tensor, max_tokens: int) -> float:
    loaded = _load(model, dtype)
    started = time.perf_counter()
    made = loaded.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=max_tokens,
        min_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    assert made.shape[1] == max_tokens
    return int(made.numel()) / (time.perf_counter() - started)


def _generate_batch(model: Path, dtype: torch.dtype, prompts: Sequence[Sequence[int]], max_tokens: int) -> float:
    loaded = _load(model, dtype)
    config = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig()
    # what these prompts need: left to itself it takes most of the machine's memory, and time to fill it
    pages = (-(-(len(prompt) + max_tokens) // batching.page_size) for prompt in prompts)
    batching.num_blocks = 1 + sum(pages)
    started = time.perf_counter()
    made = loaded.generate_batch(
        [list(prompt) for prompt in prompts],
        generation_config=config,
        continuous_batching_config=batching,
        warmup=False,
    )
    seconds = time.perf_counter() - started
    count = sum(len(output.generated_tokens) for output in made.values())
    assert count == len(prompts) * max_tokens, count
    return count / seconds


@torch.inference_mode()
def _forward(model: Path, dtype: torch.dtype, batches: Sequence[Tensor], has_logits: bool) -> float:
    loaded = _load(model, dtype)
    form = loaded if has_logits else loaded.base_model
    started = time.perf_counter()
    for embeds in batches:
        form(inputs_embeds=embeds, use_cache=False)
    return time.perf_counter() - started
