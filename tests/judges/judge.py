"""What a judge is: how it is installed and asked, and how what it says is read."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ALIAS = "gpt-judged"  # the Agents SDK compacts with models of such names alone
KEY = "none"
MOST_SECONDS = 900
LAST_CHARACTERS = 600  # of what a judge said that broke down


@dataclass(frozen=True)
class Target:
    """The server that is judged: where, with /v1, and a name of its model."""

    url: str
    model: str


@dataclass(frozen=True)
class Lack:
    """Why a check is skipped: what the model cannot do, and how the server says so, a pattern in the check's errors."""

    reason: str
    refusal: str


@dataclass
class Outcome:
    """What a judge found; `failures` and `skipped` a line each."""

    judge: str
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Judge:
    """One that prints JSON with `results`, each with an `id`, a `status` and perhaps `errors`.

    Attributes:
        install: makes its environment in a folder, and gives the folder; places.Unavailable where it cannot.
        command: of an environment and a target, what is run.
        lacks: what the model cannot do, by the check's id. Where such a check passes it counts as passed.
    """

    install: Callable[[Path], Path]
    command: Callable[[Path, Target], Sequence[str | Path]]
    lacks: Mapping[str, Lack] = field(default_factory=dict)

    def installed(self, folder: Path) -> Path:
        return self.install(folder)

    def ask(self, name: str, environment: Path, target: Target) -> Outcome:
        """Run it; one that breaks down, or says nothing that can be read, has failed."""
        started = time.monotonic()
        own = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": target.url}
        own.pop("PYTHONPATH", None)  # the project's packages are none of the judge's
        try:
            done = subprocess.run(
                self.command(environment, target),
                cwd=environment,
                env=own,
                capture_output=True,
                text=True,
                timeout=MOST_SECONDS,
                check=False,
            )
            outcome = self.read(name, done.stdout)
            if outcome is None:
                outcome = Outcome(name, failures=[f"said nothing readable: {done.stderr[-LAST_CHARACTERS:]}"])
        except subprocess.TimeoutExpired:
            outcome = Outcome(name, failures=[f"did not end within {MOST_SECONDS} s"])
        outcome.seconds = time.monotonic() - started
        return outcome

    def read(self, name: str, said: str) -> Outcome | None:
        """What a judge printed; None where there is no result in it."""
        try:
            results: list[dict[str, Any]] = json.loads(said[said.index("{") :])["results"]
        except (ValueError, KeyError):
            return None
        if not results:
            return None
        outcome = Outcome(name)
        for result in results:
            self._count(result, outcome)
        return outcome

    def _count(self, result: Mapping[str, Any], outcome: Outcome) -> None:
        check, status = str(result["id"]), result["status"]
        errors = "; ".join(map(str, result.get("errors") or ()))
        lack = self.lacks.get(check)
        if status == "passed":
            outcome.passed += 1
        elif status == "skipped":
            outcome.skipped.append(f"{check}: {errors}")
        elif lack is not None and re.search(lack.refusal, errors):
            outcome.skipped.append(f"{check}: {lack.reason}")
        else:
            outcome.failures.append(f"{check}: {errors or status}")


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, a row for each judge."""
    rows = [
        f"| {one.judge} | {one.passed} | {len(one.failures)} | {'; '.join(one.skipped) or '–'} | {one.seconds:.1f} |"
        for one in outcomes
    ]
    return "\n".join(["| judge | passed | failed | skipped | seconds |", "|---|---:|---:|---|---:|", *rows])
