"""Attention over a packed batch, in the place where transformers calls its own (`ALL_ATTENTION_FUNCTIONS`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from server.engine.kv_cache import KvCache


@dataclass(frozen=True)
class Span:
    """A run of positions of one request in the packed batch.

    Attributes:
        length: positions in this batch.
        row: of the KV cache, None where nothing follows that would read it.
        num_cached: positions already in the row; more than 0 only in a span of length 1.
    """

    length: int
    row: int | None
    num_cached: int


@dataclass(frozen=True)
class Options:
    """What a layer asks of its attention."""

    scale: float | None
    sliding_window: int | None


class Kernels(Protocol):
    """The two shapes attention takes here; T tokens, H query heads, K key heads, N rows, width d."""

    def prefill(self, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], options: Options) -> Tensor:
        """Causal attention within each of the runs of these lengths: (T, H, d), (T, K, d) to (T, H, d)."""
        ...

    def decode(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, lengths: Tensor, options: Options
    ) -> Tensor:
        """One query a row over its first `lengths` cached positions: (N, H, d), caches whole, to (N, H, d)."""
        ...


class PackedAttention:
    """Splits a packed batch into spans: decodes first, then runs that start their sequence."""

    def __init__(self, cache: KvCache, kernels: Kernels) -> None:
        self._cache = cache
        self._kernels = kernels
        self._decodes: list[Span] = []
        self._runs: list[Span] = []

    def begin(self, spans: Sequence[Span], device: torch.device) -> None:
        """Set the batch that the calls until the next `begin` are part of; cached spans stand first."""
        self._decodes = [span for span in spans if span.num_cached]
        self._runs = list(spans[len(self._decodes) :])
        assert all(span.length == 1 and span.row is not None for span in self._decodes)
        assert not any(span.num_cached for span in self._runs)
        self._rows = torch.tensor([span.row for span in self._decodes], dtype=torch.long, device=device)
        self._places = torch.tensor([span.num_cached for span in self._decodes], dtype=torch.long, device=device)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG002  # none is made for a name transformers has no mask for
        scaling: float | None = None,
        sliding_window: int | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """The interface of transformers: query (1, H, T, d), key and value (1, K, T, d) to (1, T, H, d)."""
        unknown = [name for name in ("softcap", "s_aux") if others.get(name) is not None]
        if unknown:
            raise ValueError(f"the engine's attention does not know `{unknown[0]}`, which this architecture uses")
        options = Options(scaling, sliding_window)
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, d)
        layer = module.layer_idx
        assert isinstance(layer, int)
        keys, values = self._cache.layer(layer, key, value)
        outputs = []
        num_decodes = len(self._decodes)
        if num_decodes:
            keys[self._rows, self._places] = key[:num_decodes]
            values[self._rows, self._places] = value[:num_decodes]
            outputs.append(
                self._kernels.decode(query[:num_decodes], keys, values, self._rows, self._places + 1, options)
            )
        if self._runs:
            start = num_decodes
            for span in self._runs:
                if span.row is not None:
                    keys[span.row, : span.length] = key[start : start + span.length]
                    values[span.row, : span.length] = value[start : start + span.length]
                start += span.length
            lengths = [span.length for span in self._runs]
            outputs.append(
                self._kernels.prefill(query[num_decodes:], key[num_decodes:], value[num_decodes:], lengths, options)
            )
        return torch.cat(outputs)[None], None


class SdpaKernels:
    """torch's scaled dot-product attention: any device, any dtype, a sequence at a time in prefill."""

    def prefill(self, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], options: Options) -> Tensor:
        queries, keys, values = (tensor.split(list(lengths)) for tensor in (query, key, value))
        return torch.cat([self._run(*run, options) for run in zip(queries, keys, values, strict=True)])

    def _run(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        length, window = query.shape[0], options.sliding_window
        mask = None
        if window is not None and length > window:
            place = torch.arange(length, device=query.device)
            distance = place[:, None] - place  # (L, L)
            mask = (distance >= 0) & (distance < window)
        output = scaled_dot_product_attention(
            query.transpose(0, 1)[None],  # (1, H, L, d)
            key.transpose(0, 1)[None],  # (1, K, L, d)
            value.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=options.scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return output[0].transpose(0, 1)

    def decode(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: Tensor, lengths: Tensor, options: Options
    ) -> Tensor:
        longest = int(lengths.max())
        place = torch.arange(longest, device=query.device)
        mask = place < lengths[:, None]  # (N, longest)
        if options.sliding_window is not None:
            mask &= place >= lengths[:, None] - options.sliding_window
        output = scaled_dot_product_attention(
            query[:, :, None],  # (N, H, 1, d)
            keys[rows, :longest].transpose(1, 2),  # (N, K, longest, d)
            values[rows, :longest].transpose(1, 2),
            attn_mask=mask[:, None, None],
            scale=options.scale,
            enable_gqa=keys.shape[2] != query.shape[1],
        )
        return output[:, :, 0]
