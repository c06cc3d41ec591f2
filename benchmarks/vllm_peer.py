"""What people would use instead: vLLM, on the same weights."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

WORKER = Path(__file__).with_name("vllm_worker.py")
LAST_LINES = 30  # of its log, shown where it fails


class Vllm:
    """vLLM's CPU build in a process of its own, which stands still while others are measured."""

    def __init__(self, python: Path, model: Path, folder: Path, *, dtype: str, kv_gib: int = 1) -> None:
        """Args: python: of an environment that has vLLM. folder: for what passes between the processes."""
        self._folder = folder
        self._log = (folder / "vllm.log").open("w")
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [python, WORKER, model, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.version = str(self._answer()["version"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)
        self._log.close()

    def prepare(self, name: str, prompts: Sequence[Tensor] | Sequence[Sequence[int]]) -> None:
        """Hand over prompts, vectors (T, D) or token ids, to be run under a name."""
        path = self._folder / f"{name}.pt"
        torch.save([prompt if isinstance(prompt, Tensor) else list(prompt) for prompt in prompts], path)
        self.call(do="prepare", name=name, path=str(path))

    def run(self, name: str, *, max_tokens: int, forget: bool, only: Sequence[int] | None = None) -> float:
        """Seconds to run the prompts of a name at once; `forget` empties the prefix cache first."""
        answer = self.call(do="run", name=name, max_tokens=max_tokens, forget=forget, only=only)
        return float(answer["seconds"])

    def call(self, **command: Any) -> dict[str, Any]:
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next answer, after which the process stands still."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                os.killpg(self._process.pid, signal.SIGSTOP)
                answer: dict[str, Any] = json.loads(line)
                return answer
        told = Path(self._log.name).read_text().splitlines()[-LAST_LINES:]
        raise RuntimeError("vLLM ended; its last words:\n" + "\n".join(told))
