"""E3, E8, E9: how fast documents are compressed, alone, together, appended to and very long."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from benchmarks.machine import forget_peak_memory, peak_memory
from benchmarks.measuring import Row, Spread, ratios, take_turns
from benchmarks.subject import SEGMENT_LENGTH, SUMMARY_LENGTH, Subject, random_ids
from benchmarks.transformers_peer import Transformers
from benchmarks.vllm_peer import ON_VLLM, ON_VLLM_TARGET, Vllm

SHARE_TARGETS = {1: 65.0, 4: 80.0}  # percent of the matmul rate, by batch
LONG_TOKENS = 100_000
GIB = 2**30


def run(
    subject: Subject, transformers: Transformers, vllm: Vllm | None, on_vllm: Vllm | None, *, rounds: int
) -> Iterator[Row]:
    for batch in SHARE_TARGETS:
        yield from _share_of_rate(subject, transformers, vllm, on_vllm, batch=batch, rounds=rounds)
    yield _append(subject, rounds)
    yield from _very_long(subject, rounds)


def segments_of(num_tokens: int, seed: int) -> list[list[int]]:
    ids = random_ids(num_tokens, seed)
    return [ids[start : start + SEGMENT_LENGTH] for start in range(0, num_tokens, SEGMENT_LENGTH)]


def flops(model: nn.Module, passes: Sequence[tuple[int, int]]) -> float:
    """Of the decoder's matrix products, for passes of so many new positions after so many that are known.

    Each position is counted once, causal attention as the half it is: what the method needs at least.
    """
    config = model.config
    linear = sum(module.weight.numel() for module in model.base_model.modules() if isinstance(module, nn.Linear))
    width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return sum(2 * linear * new + 4 * width * (new * known + new * (new + 1) / 2) for known, new in passes)


def needed_passes(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Of one document: its vectors are read once each, then its segments with their summary tokens."""
    passes = []
    for index, length in enumerate(lengths):
        new_vectors = min(index, 1) * SUMMARY_LENGTH
        passes.append((index * SUMMARY_LENGTH - new_vectors, new_vectors + length + SUMMARY_LENGTH))
    return passes


def _share_of_rate(
    subject: Subject, transformers: Transformers, vllm: Vllm | None, on_vllm: Vllm | None, *, batch: int, rounds: int
) -> Iterator[Row]:
    documents = [segments_of(4 * SEGMENT_LENGTH, seed) for seed in range(batch)]
    vectors = [
        torch.stack(
            [subject.random_vectors(index * SUMMARY_LENGTH + SEGMENT_LENGTH + SUMMARY_LENGTH, seed)
             for seed in range(batch)]
        )
        for index in range(4)
    ]  # fmt: skip
    needed = batch * flops(subject.shape(), needed_passes([SEGMENT_LENGTH] * 4))

    sides = {
        "ours": lambda: subject.compress_together(documents),
        "transformers forward": lambda: transformers.forward(vectors),
        "matmul": transformers.matmul_rate,
    }
    peers = ["transformers forward"]
    if vllm is not None and on_vllm is not None:
        names = [f"E3-{batch}-{index}" for index in range(len(vectors))]
        for name, own in zip(names, vectors, strict=True):
            vllm.prepare(name, list(own))
        on_vllm.prepare(f"E3-{batch}", documents)
        sides["vLLM forward"] = lambda: sum(vllm.run(name, max_tokens=1) for name in names)
        sides[ON_VLLM] = lambda: on_vllm.run(f"E3-{batch}", max_tokens=None)
        peers += ["vLLM forward", ON_VLLM]
    measured = take_turns(sides, rounds)
    what = f"compress 6,144 tokens in 4 segments, {batch} at once"
    shares = [100 * needed / seconds / rate for seconds, rate in zip(measured["ours"], measured["matmul"], strict=True)]
    rates = {"ours": Spread.of([needed / seconds / 1e9 for seconds in measured["ours"]])}
    rates["matmul"] = Spread.of([rate / 1e9 for rate in measured["matmul"]])
    share, target = f"{what}: share of the matmul rate", SHARE_TARGETS[batch]
    yield Row("E3", share, Spread.of(shares), "%", target, sides=rates, side_unit="GFLOP/s")
    for peer in peers:
        yield _speed(what, measured, "ours", peer, target=1.0)
    if ON_VLLM in measured:
        yield _speed(what, measured, ON_VLLM, "vLLM forward", target=ON_VLLM_TARGET)


def _speed(what: str, measured: Mapping[str, Sequence[float]], side: str, peer: str, *, target: float) -> Row:
    """Of one side over a peer's, whose seconds were measured."""
    seconds = {name: Spread.of(measured[name]) for name in (side, peer)}
    gain = ratios(measured[peer], measured[side])
    return Row("E3", f"{what}: speed, {side} / {peer}", gain, "×", target, sides=seconds, side_unit="s")


def _append(subject: Subject, rounds: int) -> Row:
    """As a client does it, store and all: new documents every time, what is appended to having just been compressed."""
    seeds = itertools.count(1000)

    def seconds(parent_id: str | None) -> float:
        started = time.perf_counter()
        subject.run(subject.store(random_ids(SEGMENT_LENGTH, next(seeds)), parent_id))
        return time.perf_counter() - started

    def appended() -> float:
        document = random_ids(20 * SEGMENT_LENGTH, next(seeds))
        return seconds(subject.run(subject.store(document)))

    measured = take_turns({"appended": appended, "alone": lambda: seconds(None)}, rounds)
    return Row(
        "E8",
        "one segment appended to 20, over one alone: time",
        ratios(measured["appended"], measured["alone"]),
        "×",
        1.3,
        is_limit=True,
        sides={name: Spread.of(values) for name, values in measured.items()},
        side_unit="s",
    )


def _very_long(subject: Subject, rounds: int) -> Iterator[Row]:
    """Memory is the process's peak while it compresses each."""
    peaks = {}

    def seconds_a_token(num_tokens: int) -> float:
        segments = segments_of(num_tokens, 3)
        forget_peak_memory()
        started = time.perf_counter()
        vectors = subject.run(subject.compress(segments))
        seconds = time.perf_counter() - started
        peaks.setdefault(num_tokens, peak_memory())
        assert len(vectors) == len(segments)
        return 1e6 * seconds / num_tokens

    short = 4 * SEGMENT_LENGTH
    sides = {"100k tokens": lambda: seconds_a_token(LONG_TOKENS), "6k": lambda: seconds_a_token(short)}
    seconds_a_token(short)
    measured = take_turns(sides, max(2, rounds // 2))
    spreads = {name: Spread.of(values) for name, values in measured.items()}
    growth = ratios(measured["100k tokens"], measured["6k"])
    yield Row(
        "E9",
        "compress 100k tokens over 6k: time a token",
        growth,
        "×",
        1.15,
        is_limit=True,
        sides=spreads,
        side_unit="µs",
    )
    num_segments = -(-LONG_TOKENS // SEGMENT_LENGTH)
    own = num_segments * SUMMARY_LENGTH * subject.compressor.hidden_size * subject.dtype.itemsize
    more = (peaks[LONG_TOKENS] - peaks[short]) / 2**20
    yield Row(
        "E9",
        f"peak memory of 100k tokens above that of 6k; its vectors are {own / 2**20:.1f} MiB",
        Spread(more, more, more),
        "MiB",
        64.0,
        is_limit=True,
    )
