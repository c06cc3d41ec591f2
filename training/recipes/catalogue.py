"""The recipes, by the name that `--recipe` takes."""

from collections.abc import Callable

from training.recipes.from_scratch import small, small_cpu, tiny
from training.recipes.published import llama_2_7b_6k, opt_1_3b_30k, opt_2_7b_6k, qwen3_0_6b
from training.recipes.recipe import Recipe
from training.recipes.smollm import smollm, smollm_gpu

RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "small": small,
    "small-cpu": small_cpu,
    "smollm": smollm,
    "smollm-gpu": smollm_gpu,
    "opt-1.3b-30k": opt_1_3b_30k,
    "opt-2.7b-6k": opt_2_7b_6k,
    "llama-2-7b-6k": llama_2_7b_6k,
    "qwen3-0.6b": qwen3_0_6b,
}
