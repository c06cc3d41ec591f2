"""The engine on a GPU, in under ten minutes: how near the chip's limits, and beside transformers' continuous batching.

    python -m benchmarks.gpu.engine --out OUT             # a Llama-2-7B-shaped model with random weights, bfloat16
    python -m benchmarks.gpu.engine --out OUT --dry-run   # the same code with small shapes, on a CPU

Writes OUT/engine.json. The limits are measured here: of compression a square matrix product, of decoding a copy.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer, ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.compression import flops, needed_passes
from benchmarks.gpu.train import matmul_rate, seconds_of, synchronised
from benchmarks.machine import ROOT, describe
from benchmarks.subject import greedy
from model import AutoCompressor
from server.core.loading import served_model
from server.engine.protocol import Engine, Prompt
from server.engine.torch.build import Loaded, build_engines
from server.engine.torch.cores import in_a_thread_that_ends
from server.metrics import Metrics
from server.settings import Settings

TARGETS = {"compress": 0.55, "decode 1": 0.70, "decode 64": 0.60}


@dataclass(frozen=True)
class Size:
    """What is measured: the model's shape and the workloads."""

    shape: dict[str, int]
    segment_length: int
    summary_length: int
    streams: int
    concurrency: int
    new_tokens: int
    question_tokens: int
    copied_bytes: int
    product: int
    repeats: int


LLAMA_2_7B = Size(
    shape={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 8192},
    segment_length=1536, summary_length=50, streams=64, concurrency=32, new_tokens=64, question_tokens=50,
    copied_bytes=2**32, product=8192, repeats=5,
)  # fmt: skip
DRY = Size(
    shape={"vocab_size": 8192, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024},
    segment_length=32, summary_length=4, streams=4, concurrency=2, new_tokens=8, question_tokens=8,
    copied_bytes=2**20, product=256, repeats=1,
)  # fmt: skip


class Measured:
    """An engine and transformers' own model over the same weights."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        config = LlamaConfig(**size.shape, tie_word_embeddings=False)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.device(device):
            torch.manual_seed(0)
            self.peer = LlamaForCausalLM(config).to(dtype).eval()
        with torch.device("meta"):
            own = LlamaForCausalLM(deepcopy(config))  # whose attention the engine will name in it
        own.load_state_dict(self.peer.state_dict(), assign=True)
        own.model.rotary_emb = self.peer.model.rotary_emb  # buffers that no state holds
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "model" / "paper")
        self.compressor = AutoCompressor.from_base(
            own, size.summary_length, segment_length=size.segment_length, tokenizer=tokenizer
        ).eval()
        row = 4 * size.summary_length + size.question_tokens + 4 * size.new_tokens
        settings = Settings(
            device=str(device), max_running_sequences=max(size.streams, size.concurrency), max_sequence_tokens=row
        )
        served = served_model(self.compressor, settings, name="random-7b")
        model = Loaded(served.name, self.compressor, served.max_sequence_tokens)
        self.engine: Engine = build_engines([model], settings, Metrics())[0]

    def vectors(self, seed: int) -> torch.Tensor:
        """The soft prompt of a document of four segments."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(4 * self.size.summary_length, self.compressor.hidden_size, generator=generator).to(
            self.compressor.dtype
        )

    def ids(self, count: int, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, self.size.shape["vocab_size"], (count,), generator=generator).tolist()

    def prompts(self, count: int) -> list[Prompt]:
        return [Prompt(self.vectors(seed), tuple(self.ids(self.size.question_tokens, seed))) for seed in range(count)]

    async def compress(self, batch: int) -> None:
        length = self.size.segment_length
        documents = [[self.ids(length, 4 * seed + part) for part in range(4)] for seed in range(batch)]

        async def one(segments: Sequence[Sequence[int]]) -> None:
            async with aclosing(self.engine.compress(segments)) as made:
                async for _ in made:
                    pass

        await asyncio.gather(*map(one, documents))

    async def token_times(self, prompts: Sequence[Prompt], new_tokens: int) -> list[list[float]]:
        """When each token of each prompt's greedy continuation came."""

        async def one(prompt: Prompt) -> list[float]:
            async with aclosing(self.engine.generate(prompt, greedy(new_tokens))) as events:
                return [time.perf_counter() async for _ in events]

        return await asyncio.gather(*map(one, prompts))

    def continuous_batching(self, texts: Sequence[Sequence[int]], new_tokens: int) -> float:
        """Seconds that transformers takes to continue token prompts."""
        config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        batching = ContinuousBatchingConfig()
        batching.num_blocks = 1 + sum(-(-(len(text) + new_tokens) // batching.page_size) for text in texts)
        started = synchronised(self.device)
        self.peer.generate_batch(
            [list(text) for text in texts],
            generation_config=config,
            continuous_batching_config=batching,
            warmup=False,
        )
        return synchronised(self.device) - started


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that a copy reads and writes."""
    one, other = (torch.zeros(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * num_bytes / seconds_of(lambda: one.copy_(other), device, repeats=10)


async def timed(work: Any) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def compression(measured: Measured, rate: float) -> dict[str, Any]:
    size, results = measured.size, {}
    for batch in (1, 4):
        await measured.compress(batch)
        seconds = median([await timed(measured.compress(batch)) for _ in range(size.repeats)])
        needed = batch * flops(measured.peer, needed_passes([size.segment_length] * 4))
        results[f"batch {batch}"] = {"seconds": seconds, "share_of_matmul_rate": needed / seconds / rate}
    return results


async def decoding(measured: Measured, bandwidth: float) -> dict[str, Any]:
    """Share of the bound: weights once and the keys and values of every stream, over the copy bandwidth."""
    size, results = measured.size, {}
    config, itemsize = measured.peer.config, measured.compressor.dtype.itemsize
    layers = measured.peer.num_parameters() - config.vocab_size * config.hidden_size  # of the embeddings a row is read
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * itemsize
    for streams in (1, size.streams):
        prompts = measured.prompts(streams)
        await measured.token_times(prompts, size.new_tokens)
        times = await measured.token_times(prompts, 4 * size.new_tokens)
        first, last = max(own[0] for own in times), min(own[-1] for own in times)
        seconds = (last - first) / (4 * size.new_tokens - 1)
        known = prompts[0].num_positions + 2 * size.new_tokens
        bound = (layers * itemsize + streams * known * position) / bandwidth
        results[f"{streams} streams"] = {"seconds_a_step": seconds, "share_of_bound": bound / seconds}
    return results


async def beside_transformers(measured: Measured) -> dict[str, Any]:
    """E1, E4 and E5 of `python -m benchmarks`, as ratios of continuous batching's time to the engine's."""
    size = measured.size
    document = 4 * size.segment_length
    asked = measured.prompts(size.concurrency)
    same = [measured.ids(asked[0].num_positions, seed) for seed in range(size.concurrency)]
    full = [measured.ids(document + size.question_tokens, seed) for seed in range(size.concurrency)]
    pairs = {
        "E1": (asked, same, size.new_tokens),
        "E4": (asked[:1], full[:1], 1),
        "E5": (asked[:8], full[:8], 16 if size is LLAMA_2_7B else 4),
    }
    results = {}
    for name, (prompts, texts, new_tokens) in pairs.items():
        ours, theirs = [], []
        for _ in range(size.repeats + 1):  # the first of each is to warm up
            ours.append(await timed(measured.token_times(prompts, new_tokens)))
            theirs.append(await asyncio.to_thread(measured.continuous_batching, texts, new_tokens))
        one, other = median(ours[1:] or ours), median(theirs[1:] or theirs)
        results[name] = {"ours_seconds": one, "continuous_batching_seconds": other, "ratio": other / one}
    return results


async def measure(size: Size, device: torch.device) -> dict[str, Any]:
    rate, bandwidth = matmul_rate(device, size.product), copy_bandwidth(device, size.copied_bytes)
    measured = await in_a_thread_that_ends(Measured, size, device)
    measured.engine.start()
    try:
        return {
            "machine": describe() | {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"},
            "matmul_flops_per_second": rate,
            "copy_bytes_per_second": bandwidth,
            "compression": await compression(measured, rate),
            "decoding": await decoding(measured, bandwidth),
            "beside_continuous_batching": await beside_transformers(measured),
            "targets": TARGETS,
        }
    finally:
        await asyncio.to_thread(measured.engine.stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="small shapes, on a CPU")
    options = parser.parse_args()
    size, device = (DRY, "cpu") if options.dry_run else (LLAMA_2_7B, "cuda")
    result = asyncio.run(measure(size, torch.device(device)))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "engine.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({name: result[name] for name in ("compression", "decoding", "beside_continuous_batching")}, indent=1)
    )


if __name__ == "__main__":
    main()
