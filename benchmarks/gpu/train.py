"""Training on a GPU, in under ten minutes: `small`, and how near a 1.3B model's adaptation comes to the chip's rate.

    python benchmarks/gpu/train.py --out OUT speed             # tokens/s, share of the measured bf16 rate, memory
    python benchmarks/gpu/train.py --out OUT small --data DATA # the `paper` checkpoint; again to go on with it
    python benchmarks/gpu/train.py --out OUT speed --dry-run   # the same code with small shapes, on a CPU

Writes OUT/speed.json, and OUT/small with the checkpoint, its report and snapshots to go on from.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from training.bases.adapters import Adapted
from training.loop.optimisation import build_optimisers
from training.objectives.cross_entropy import Segments
from training.planning.flops import step_flops
from training.planning.plan import stage_models
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Recipe
from training.run.surroundings import surroundings

TARGET = 0.40  # of the measured matmul rate
SMALL_SECONDS = 540  # a call has ten minutes; a stage that is cut off goes on in the next
DRY_SHAPE = {"vocab_size": 512, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """The median time of a call, after two to warm up."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        started = synchronised(device)
        work()
        times.append(synchronised(device) - started)
    return median(times)


def matmul_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a square bfloat16 product."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: one @ other, device, repeats=10)


def adaptation_speed(recipe: Recipe, rate: float, accelerator: Accelerator) -> dict[str, Any]:
    """One adaptation step of the recipe, all of it: forward and backward of every substep, clipping, AdamW."""
    device = accelerator.device
    base = AutoModelForCausalLM.from_config(recipe.base.config(), dtype=getattr(torch, recipe.base.dtype))
    model = Adapted.of(base, recipe, None, seed=0).model.train()
    model, *optimisers = accelerator.prepare(model, *build_optimisers(model, recipe.adaptation))
    objective, stage = Segments(recipe.compression, seed=0), recipe.adaptation
    shape = (stage.batch_sequences, stage.sequence_tokens)
    tokens = torch.randint(base.config.vocab_size, shape, device=device)

    def step() -> None:
        for rows in tokens.split(stage.micro_batch_sequences):
            for substep in objective.substeps(model, rows, step=0):
                accelerator.backward(substep.loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()

    seconds = seconds_of(step, device, repeats=3)
    flops = step_flops(stage_models(recipe)["adaptation"], recipe, "adaptation")
    needed = flops.total - flops.recomputed  # computing again is no useful work
    return {
        "recipe": asdict(recipe),
        "attention": base.config._attn_implementation,
        "seconds": seconds,
        "tokens_per_second": tokens.numel() / seconds,
        "flops_per_second": needed / seconds,
        "share_of_matmul_rate": needed / seconds / rate,
        "target": TARGET,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


def speed(out: Path, *, is_dry_run: bool) -> None:
    accelerator = Accelerator(cpu=is_dry_run, mixed_precision="bf16")
    rate = matmul_rate(accelerator.device, 256 if is_dry_run else 8192)
    # two micro-batches of four are half of the recipe's batch: enough that AdamW is as small a part as in training
    recipe = RECIPES["opt-2.7b-6k"]()
    shape = RECIPES["opt-1.3b-30k"]().base.shape
    stage = replace(recipe.adaptation, batch_sequences=8, micro_batch_sequences=4)
    recipe = replace(recipe, base=replace(recipe.base, shape=shape), adaptation=stage)
    if is_dry_run:
        base = replace(recipe.base, shape={**shape, **DRY_SHAPE, "word_embed_proj_dim": 64})
        stage = replace(stage, batch_sequences=2, micro_batch_sequences=1)
        recipe = replace(recipe, base=base, adaptation=stage)
    result = {"matmul_flops_per_second": rate, "adaptation": adaptation_speed(recipe, rate, accelerator)}
    result |= surroundings()
    (out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result["adaptation"].items() if name != "recipe"}, indent=1))
    if not is_dry_run:
        memory = Path(__file__).parents[1] / "training_memory.py"
        command = [sys.executable, memory, "--device", "cuda", "--recipe", "opt-1.3b-30k"]
        subprocess.run([*command, "--json", out / "memory.json"], check=True)


def small(out: Path, data: Path, *, is_dry_run: bool) -> None:
    """Train `small` until it is done or the time is up; the report has tokens/s by step."""
    command = [sys.executable, "-m", "training", "--recipe", "small", "--data", str(data), "--out", str(out / "small")]
    if is_dry_run:
        command += ["--pretraining-tokens", "262144", "--tokens", "139264"]
    process = subprocess.Popen([*command, "--cache", str(out / "tokens"), "--save-minutes", "2"])
    try:
        process.wait(SMALL_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    print("finished" if process.returncode == 0 else f"stopped with {process.returncode}; the same command goes on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "small"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a folder of documents, for `small`")
    parser.add_argument("--dry-run", action="store_true", help="small shapes, on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "speed":
        speed(options.out, is_dry_run=options.dry_run)
    elif options.data is None:
        parser.error("small needs --data")
    else:
        small(options.out, options.data, is_dry_run=options.dry_run)


if __name__ == "__main__":
    main()
