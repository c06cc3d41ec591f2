"""flash-attn (the `gpu` extra) as the engine's kernels on CUDA."""

from collections.abc import Sequence

import torch
from torch import Tensor

from server.engine.torch.attention import Options, Run

try:
    from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache
except ImportError:  # an optional dependency
    flash_attn_varlen_func = flash_attn_with_kvcache = None

EVERYTHING = (-1, -1)


def is_available() -> bool:
    return flash_attn_varlen_func is not None and torch.cuda.is_available()


class FlashKernels:
    """Variable-length prefill, and decode that reads the cache in place (flash-attn 2's documented functions)."""

    def prefill(self, runs: Sequence[Run], options: Options) -> Tensor:
        lengths = _lengths(runs, [run.query for run in runs])
        query = torch.cat([run.query for run in runs])
        # causal with more keys than queries: the last of each stand at the same place, as they do here
        keys, values = ([_whole(run, place) for run in runs] for place in (0, 1))
        key_lengths = _lengths(runs, keys)
        output: Tensor = flash_attn_varlen_func(
            query, torch.cat(keys), torch.cat(values),
            _ends(lengths, query.device), _ends(key_lengths, query.device), max(lengths), max(key_lengths),
            softmax_scale=options.scale, causal=True, window_size=_window(options),
        )  # fmt: skip
        return output

    def decode(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        output: Tensor = flash_attn_with_kvcache(
            query[:, None], keys.transpose(1, 2), values.transpose(1, 2),  # (N, 1, H, d), (N, tokens, K, d)
            cache_seqlens=lengths.int(), softmax_scale=options.scale, causal=True, window_size=_window(options),
        )  # fmt: skip
        return output[:, 0]


def _lengths(runs: Sequence[Run], parts: Sequence[Tensor]) -> list[int]:
    """Of each span of the runs, whose queries or keys are given."""
    return [len(part) // run.num_spans for run, part in zip(runs, parts, strict=True) for _ in range(run.num_spans)]


def _whole(run: Run, place: int) -> Tensor:
    """A run's keys or values with those known before, (P + L, K, d)."""
    own = (run.key, run.value)[place]
    return own if run.known is None else torch.cat([run.known[place].transpose(0, 1), own])


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)


def _window(options: Options) -> tuple[int, int]:
    return EVERYTHING if options.sliding_window is None else (options.sliding_window - 1, 0)
