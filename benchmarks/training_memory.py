"""Peak memory of a training step against the number of segments, with and without stop-gradient.

    python -m benchmarks.training_memory                                       # a CPU: the process's resident memory
    python -m benchmarks.training_memory --device cuda --recipe opt-1.3b-30k   # CUDA: what torch has allocated

Each figure is the peak of a process of its own that takes one step on one sequence: weights, gradients and activations,
no optimiser state. Prints Markdown; `--json FILE` keeps the figures.
"""

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from training.bases.adapters import Adapted
from training.objectives.cross_entropy import Segments
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Recipe

SEGMENTS = (4, 8, 20)
KINDS = {
    "gradients stop after 2 steps": (2, False),
    "the same, segments recomputed": (2, True),
    "no stop-gradient": (None, False),
    "no stop-gradient, segments recomputed": (None, True),
}
GIB = 2**30


def changed(recipe: Recipe, kind: str, num_segments: int) -> Recipe:
    """The recipe with equal segments of the length it serves with, and as many positions as they need."""
    in_substep, is_recomputed = KINDS[kind]
    in_substep = in_substep or num_segments
    compression = replace(
        recipe.compression,
        substeps=num_segments // in_substep,
        segments_per_substep=in_substep,
        is_randomised=False,
        segment_gradient_checkpointing=is_recomputed,
    )
    positions = compression.segment_length + num_segments * compression.summary_length
    shape = dict(recipe.base.shape)
    shape["max_position_embeddings"] = max(positions, shape["max_position_embeddings"])
    return replace(recipe, base=replace(recipe.base, shape=shape), compression=compression)


def measure(recipe: Recipe, num_segments: int, device: str) -> int:
    """Bytes at the peak of one step."""
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=recipe.precision)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(recipe.base.config(), dtype=getattr(torch, recipe.base.dtype))
    model = accelerator.prepare(Adapted.of(base, recipe, None, seed=0).model.train())
    length = recipe.compression.segment_length * num_segments
    tokens = torch.randint(base.config.vocab_size, (1, length), device=accelerator.device)
    for substep in Segments(recipe.compression, seed=0).substeps(model, tokens, step=0):
        accelerator.backward(substep.loss)
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Of this program alone (proc(5), VmHWM): getrusage's figure begins with the peak of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure_apart(options: argparse.Namespace, kind: str, num_segments: int) -> int | None:
    """The same in a process of its own; None where memory did not suffice."""
    command = [sys.executable, "-m", "benchmarks.training_memory"]
    command += ["--recipe", options.recipe, "--device", options.device]
    done = subprocess.run(
        [*command, "--kind", kind, "--segments", str(num_segments)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return int(done.stdout.split()[-1])
    if "OutOfMemory" in done.stderr or done.returncode == -signal.SIGKILL:
        return None
    raise RuntimeError(done.stderr)


def as_markdown(measured: dict[str, dict[int, int | None]]) -> str:
    lines = [f"| peak memory, GiB | {' | '.join(f'{count} segments' for count in SEGMENTS)} |", "|---|---:|---:|---:|"]
    for kind, peaks in measured.items():
        cells = ["out of memory" if peak is None else f"{peak / GIB:.2f}" for peak in peaks.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="small-cpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kind", choices=KINDS, help="measure this alone, in this process, and print bytes")
    parser.add_argument("--segments", type=int, choices=SEGMENTS)
    options = parser.parse_args()
    if options.kind is not None:
        recipe = changed(RECIPES[options.recipe](), options.kind, options.segments)
        print(measure(recipe, options.segments, options.device))
        return
    measured = {kind: {count: measure_apart(options, kind, count) for count in SEGMENTS} for kind in KINDS}
    print(as_markdown(measured))
    if options.json:
        options.json.write_text(json.dumps({"recipe": options.recipe, "device": options.device, "bytes": measured}))


if __name__ == "__main__":
    main()
