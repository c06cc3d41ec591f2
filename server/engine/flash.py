"""flash-attn (the `gpu` extra) as the engine's kernels on CUDA."""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.engine.attention import Options

try:
    from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache
except ImportError:  # an optional dependency
    flash_attn_varlen_func = flash_attn_with_kvcache = None

EVERYTHING = (-1, -1)


def is_available() -> bool:
    return flash_attn_varlen_func is not None and torch.cuda.is_available()


class FlashKernels:
    """Variable-length prefill, and decode that reads the cache in place (flash-attn 2's documented functions)."""

    def prefill(self, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], options: Options) -> Tensor:
        ends = torch.tensor([0, *lengths], dtype=torch.int32, device=query.device).cumsum(0, dtype=torch.int32)
        output: Tensor = flash_attn_varlen_func(
            query, key, value, ends, ends, max(lengths), max(lengths),
            softmax_scale=options.scale, causal=True, window_size=_window(options),
        )  # fmt: skip
        return output

    def decode(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, lengths: Tensor, options: Options
    ) -> Tensor:
        output: Tensor = flash_attn_with_kvcache(
            query[:, None], keys, values,  # (N, 1, H, d), (rows, tokens, K, d)
            cache_seqlens=lengths.int(), cache_batch_idx=rows.int(),
            softmax_scale=options.scale, causal=True, window_size=_window(options),
        )  # fmt: skip
        return output[:, 0]


def _window(options: Options) -> tuple[int, int]:
    return EVERYTHING if options.sliding_window is None else (options.sliding_window - 1, 0)
