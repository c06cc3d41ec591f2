"""Runs vLLM for `benchmarks.vllm_peer`, in vLLM's own environment: JSON commands on stdin, answers on stdout.

python -m benchmarks.vllm_worker plain MODEL DTYPE
python -m benchmarks.vllm_worker ours MODEL DTYPE STORE
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import LLM, SamplingParams

MAX_MODEL_TOKENS = 8192


class Plain:
    """vLLM itself. What it runs are prompts: vectors (T, D) or token ids."""

    def __init__(self, model: str, dtype: str) -> None:
        self._engine = LLM(
            model=model,
            dtype=dtype,
            enable_prompt_embeds=True,
            enable_prefix_caching=True,
            max_model_len=MAX_MODEL_TOKENS,
            max_num_seqs=32,
        )

    def run(self, prompts: Sequence[Any], *, max_tokens: int, forget: bool) -> float:
        """Seconds for so many tokens of each prompt."""
        if forget and not self._engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        key = "prompt_embeds" if isinstance(prompts[0], torch.Tensor) else "prompt_token_ids"
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=True)
        started = time.perf_counter()
        outputs = self._engine.generate([{key: prompt} for prompt in prompts], params, use_tqdm=False)
        seconds = time.perf_counter() - started
        made = sum(len(output.outputs[0].token_ids) for output in outputs)
        if made != max_tokens * len(prompts):
            raise RuntimeError(f"{made} tokens instead of {max_tokens * len(prompts)}")
        return seconds

    def close(self) -> None:
        """Its processes end with this one."""


class Ours:
    """This project's engine on vLLM. What it runs are prompts, vectors (P, D) and token ids each, or documents, each as
    its segments' token ids.
    """

    def __init__(self, model: str, dtype: str, store: str) -> None:
        # not at the top: vLLM's processes import this file again, and fail where it brings all of torch's companions
        from benchmarks.subject import Subject
        from server.engine.protocol import Prompt

        kv_bytes = int(os.environ["VLLM_CPU_KVCACHE_SPACE"]) * 2**30  # of each instance, as of vLLM itself
        arguments = f"kv_cache_memory_bytes={kv_bytes}"
        self._prompt = Prompt
        self._subject = Subject(Path(model), Path(store), engine="vllm", dtype=dtype, engine_args=arguments)
        self._subject.__enter__()

    def run(self, chosen: Sequence[Any], *, max_tokens: int | None, forget: bool) -> float:
        """Seconds for so many tokens of each prompt, or for the vectors of each document where that is None."""
        assert forget, "what is run here has no scope, so that nothing of it is known"
        if max_tokens is None:
            return self._subject.compress_together(chosen)
        prompts = [self._prompt(vectors, tuple(token_ids)) for vectors, token_ids in chosen]
        return len(prompts) * max_tokens / self._subject.generate(prompts, max_tokens)

    def close(self) -> None:
        self._subject.__exit__()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM prints where answers belong
    kind, *arguments = sys.argv[1:]
    side: Plain | Ours = {"plain": Plain, "ours": Ours}[kind](*arguments)
    prepared: dict[str, Any] = {}
    print(json.dumps({"version": vllm.__version__}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if command["do"] == "prepare":
            prepared[command["name"]] = torch.load(command["path"], weights_only=True)
        else:
            chosen = prepared[command["name"]]
            if command["only"] is not None:
                chosen = [chosen[index] for index in command["only"]]
            answer["seconds"] = side.run(chosen, max_tokens=command["max_tokens"], forget=command["forget"])
        print(json.dumps(answer), file=answers)
    side.close()


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
