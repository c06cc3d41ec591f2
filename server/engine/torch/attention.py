"""Attention over a packed batch, in the place where transformers calls its own (`ALL_ATTENTION_FUNCTIONS`)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from server.engine.torch.kv_cache import KvPool, Line

LENGTH_STEP = 64  # of keys that a decode reads: what is compiled for a length is kept for good, see `PackedLinear`


@dataclass(frozen=True)
class Span:
    """A run of new positions of one sequence in the packed batch.

    Attributes:
        length: positions in this batch.
        line: where keys and values of the sequence lie; None where nothing is known and nothing kept.
        num_known: positions before these that lie there already. num_kept: of these, how many are put there.
        row: of the pool, for a decode: one position of a running generation.
    """

    length: int
    line: Line | None = None
    num_known: int = 0
    num_kept: int = 0
    row: int | None = None


@dataclass(frozen=True)
class Options:
    """What a layer asks of its attention."""

    scale: float | None
    sliding_window: int | None


class Run(NamedTuple):
    """One span's queries, keys and values, (L, H, d) and (L, K, d), and what is known before, (K, P, d); None for 0.

    `num_spans`: so many spans of one length end to end, before which nothing is known.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    known: tuple[Tensor, Tensor] | None = None
    num_spans: int = 1


class Kernels(Protocol):
    """The two shapes attention takes here; T tokens, H query heads, K key heads, N rows, width d."""

    def prefill(self, runs: Sequence[Run], options: Options) -> Tensor:
        """Causal attention of each run, and to all that is known before it: (L, H, d), end to end."""
        ...

    def decode(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        """One query a row over its first `lengths` positions: (N, H, d), (N, K, T, d) to (N, H, d)."""
        ...


class PackedAttention:
    """Splits a packed batch into spans: decodes first, of the pool's first rows in their order, then runs."""

    def __init__(self, pool: KvPool, kernels: Kernels) -> None:
        self._pool = pool
        self._kernels = kernels
        self._alike: list[list[Span]] = []
        self._num_decodes = 0

    @contextmanager
    def of(self, spans: Sequence[Span], device: torch.device) -> Iterator[None]:
        """Within the block calls are part of this batch; after it no line of it is kept."""
        decodes = [span for span in spans if span.row is not None]
        assert [span.row for span in decodes] == list(range(len(decodes)))
        assert all(span.length == 1 for span in decodes)
        self._num_decodes = len(decodes)
        runs = spans[len(decodes) :]
        assert not any(span.row is not None for span in runs)
        self._alike = _alike(runs)
        self._longest = -(-max((span.num_known + 1 for span in decodes), default=0) // LENGTH_STEP) * LENGTH_STEP
        self._rows = torch.arange(len(decodes), device=device)
        self._places = torch.tensor([span.num_known for span in decodes], dtype=torch.long, device=device)
        self._lengths = self._places + 1
        try:
            yield
        finally:
            self._alike = []

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
        layer = module.layer_idx
        assert isinstance(layer, int)
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, d)
        return self.attend(layer, query, key, value, options)[None], None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """One layer's attention of the batch: query (T, H, d), key and value (T, K, d) to (T, H, d)."""
        outputs = []
        count = self._num_decodes
        if count:
            outputs.append(self._decode(layer, query[:count], key[:count], value[:count], options))
        if self._alike:
            runs = self._split(layer, query[count:], key[count:], value[count:])
            outputs.append(self._kernels.prefill(runs, options))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _decode(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        keys, values = self._pool.layer(layer, key)
        keys[self._rows, :, self._places] = key
        values[self._rows, :, self._places] = value
        own = slice(len(self._rows)), slice(None), slice(self._longest)
        return self._kernels.decode(query, keys[own], values[own], self._lengths, options)

    def _split(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> list[Run]:
        """The runs' own parts of (T, heads, d), with what is known before each; what is to be kept is written."""
        lengths = [sum(span.length for span in alike) for alike in self._alike]
        runs = []
        for alike, *parts in zip(self._alike, *(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
            known = None
            for number, span in enumerate(alike):
                if span.line is not None:
                    own = slice(number * span.length, number * span.length + span.num_kept)
                    known = _written(layer, span.line, span, parts[1][own], parts[2][own])
            runs.append(Run(parts[0], parts[1], parts[2], known, len(alike)))
        return runs


def _alike(spans: Sequence[Span]) -> list[list[Span]]:
    """Runs of spans of one length before which nothing is known; others by themselves."""
    keys = [(span.length, 0) if not span.num_known else (span.length, number + 1) for number, span in enumerate(spans)]
    grouped = groupby(zip(keys, spans, strict=True), lambda pair: pair[0])
    return [[span for _, span in pairs] for _, pairs in grouped]


def _written(layer: int, line: Line, span: Span, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Put what a span keeps, (n, K, d), into its line; what is known there before it, (K, P, d), None for nothing."""
    lines = line.layer(layer, key)
    for own, part in zip(lines, (key, value), strict=True):
        own[:, span.num_known : span.num_known + span.num_kept] = part.transpose(0, 1)
    if not span.num_known:
        return None
    return lines[0][:, : span.num_known], lines[1][:, : span.num_known]


class SdpaKernels:
    """torch's scaled dot-product attention: any device, any dtype; in prefill one sequence, or some of one length."""

    def __init__(self) -> None:
        self._masks: dict[tuple[int | None, torch.dtype], tuple[Tensor, Tensor]] = {}  # with the lengths they are of

    def prefill(self, runs: Sequence[Run], options: Options) -> Tensor:
        outputs = [self._run(run, options).transpose(1, 2).flatten(0, 1) for run in runs]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _run(self, run: Run, options: Options) -> Tensor:
        """(C, H, L, d), C being how many spans it has."""
        query, key, value = (tensor.unflatten(0, (run.num_spans, -1)).transpose(1, 2) for tensor in run[:3])
        window = options.sliding_window
        if run.known is not None and window is None and query.is_cpu:
            known_key, known_value = (tensor[None] for tensor in run.known)
            return _merged(query, (key, value), (known_key, known_value), options.scale)
        if run.known is not None:
            key, value = (torch.cat([old[None], new], dim=2) for old, new in zip(run.known, (key, value), strict=True))
        num_queries, num_keys = query.shape[2], key.shape[2]
        mask = None
        if num_keys > num_queries or (window is not None and num_keys > window):
            place = torch.arange(num_keys, device=query.device)
            distance = place[num_keys - num_queries :, None] - place  # (L, P + L)
            mask = distance >= 0
            if window is not None:
                mask &= distance < window
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=options.scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )

    def decode(self, query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        if query.is_cpu:
            mask = self._mask_of(lengths, keys, options.sliding_window)
            return _by_groups(query, keys, values, mask, options.scale)
        mask = _within(lengths, keys.shape[2], options.sliding_window)
        output = scaled_dot_product_attention(
            query[:, :, None],  # (N, H, 1, d)
            keys,
            values,
            attn_mask=mask[:, None, None],
            scale=options.scale,
            enable_gqa=keys.shape[1] != query.shape[1],
        )
        return output[:, :, 0]

    def _mask_of(self, lengths: Tensor, keys: Tensor, window: int | None) -> Tensor:
        """What is added to a decode's scores, (N, 1, 1, T); made once for the layers of a batch."""
        made = self._masks.get((window, keys.dtype))
        if made is None or made[0] is not lengths:
            outside = ~_within(lengths, keys.shape[2], window)
            mask = torch.zeros(outside.shape, dtype=keys.dtype).masked_fill_(outside, -math.inf)[:, None, None]
            made = self._masks[window, keys.dtype] = lengths, mask
        return made[1]


def _merged(query: Tensor, own: tuple[Tensor, Tensor], known: tuple[Tensor, Tensor], scale: float | None) -> Tensor:
    """Causal attention to a run's own keys and full attention to the known ones, joined by their sums of exponentials.

    torch's kernel for the CPU knows no causal mask that is not square, and a mask as a tensor costs it the half that
    it else leaves out. All (1, heads, length, d).
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, log_sum = kernel(query, *own, is_causal=True, attn_mask=None, scale=scale)
    before, log_sum_before = kernel(query, *known, is_causal=False, attn_mask=None, scale=scale)
    share = torch.sigmoid(log_sum_before - log_sum)[..., None]
    return torch.lerp(output.float(), before.float(), share).to(query.dtype)


def _within(lengths: Tensor, longest: int, window: int | None) -> Tensor:
    """Which of the first positions each row attends to, (N, longest)."""
    place = torch.arange(longest, device=lengths.device)
    mask = place < lengths[:, None]
    return mask if window is None else mask & (place >= lengths[:, None] - window)


def _by_groups(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """One query a row; the heads that share a key are what torch's kernel for the CPU takes for positions of one head.

    It reads queries in blocks, so that as heads of one query each they take up to four times as long. `mask` is added,
    (N, 1, 1, T).
    """
    num_rows, num_heads, width = query.shape
    grouped = query.reshape(num_rows, keys.shape[1], -1, width)  # (N, K, G, d)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output: Tensor = kernel(grouped, keys, values, is_causal=False, attn_mask=mask, scale=scale)[0]
    return output.reshape(num_rows, num_heads, width)
