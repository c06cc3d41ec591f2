"""What people would use instead: vLLM, on the same weights; and this project's engine on vLLM beside it."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from benchmarks.machine import ROOT

LAST_LINES = 30  # of its log, shown where it fails
END_SECONDS = 30.0
ON_VLLM = "ours on vLLM"  # as rows name it
ON_VLLM_TARGET = 0.95  # of vLLM itself


class Vllm:
    """vLLM's CPU build in processes of their own, which stand still while others are measured."""

    def __init__(
        self,
        python: Path,
        model: Path,
        folder: Path,
        *,
        dtype: str,
        kind: Literal["plain", "ours"] = "plain",
        kv_gib: int = 1,
    ) -> None:
        """`python`: of an environment that has vLLM. `folder`: for what passes between the processes. `kind`: vLLM
        itself, or this project's engine on it, which has that environment have the server's dependencies too.
        """
        self._folder = folder / kind
        self._folder.mkdir()
        self._log = (self._folder / "vllm.log").open("w")
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
            # all that the others have too: by itself it leaves one to others, of two every other one
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [str(python), "-m", "benchmarks.vllm_worker", kind, str(model), dtype]
        if kind == "ours":
            command.append(str(self._folder / "summaries.sqlite3"))
        self._process = subprocess.Popen(
            command,
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
        assert self._process.stdin is not None
        with suppress(ProcessLookupError, BrokenPipeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGCONT)
            self._process.stdin.close()
            self._process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(END_SECONDS)
        self._log.close()

    def prepare(self, name: str, prompts: Sequence[Tensor] | Sequence[Sequence[Any]]) -> None:
        """Hand over what is to be run under a name, as the worker's kind takes it."""
        path = self._folder / f"{name}.pt"
        torch.save([prompt if isinstance(prompt, Tensor) else list(prompt) for prompt in prompts], path)
        self.call(do="prepare", name=name, path=str(path))

    def run(
        self, name: str, *, max_tokens: int | None, forget: bool = True, only: Sequence[int] | None = None
    ) -> float:
        """Seconds to run the prompts of a name at once, or its documents where `max_tokens` is None.

        `forget` empties the prefix cache first.
        """
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
