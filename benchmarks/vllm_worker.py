"""Runs vLLM for `benchmarks.vllm_peer`, in vLLM's own environment: JSON commands on stdin, answers on stdout."""

import json
import os
import sys
import time

import torch
import vllm
from vllm import LLM, SamplingParams

MAX_MODEL_TOKENS = 8192


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM prints where answers belong
    engine = LLM(
        model=sys.argv[1],
        dtype=sys.argv[2],
        enable_prompt_embeds=True,
        enable_prefix_caching=True,
        max_model_len=MAX_MODEL_TOKENS,
        max_num_seqs=32,
    )
    prompts = {}
    print(json.dumps({"version": vllm.__version__}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "prepare":
            loaded = torch.load(command["path"], weights_only=True)
            key = "prompt_embeds" if isinstance(loaded[0], torch.Tensor) else "prompt_token_ids"
            prompts[command["name"]] = [{key: prompt} for prompt in loaded]
            print("{}", file=answers)
            continue
        chosen = prompts[command["name"]]
        if command["only"] is not None:
            chosen = [chosen[index] for index in command["only"]]
        if command["forget"] and not engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        count = command["max_tokens"]
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=True)
        started = time.perf_counter()
        outputs = engine.generate(chosen, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        made = sum(len(output.outputs[0].token_ids) for output in outputs)
        if made != count * len(chosen):
            raise RuntimeError(f"{made} tokens instead of {count * len(chosen)}")
        print(json.dumps({"seconds": seconds}), file=answers)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
