"""What a suite of the bench is asked for."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from training.data.documents import TokenisedDocuments
from training.data.domains import documents_by_domain, has_training_file


@dataclass(frozen=True)
class Options:
    """The flags of `evaluate --suite`.

    Attributes:
        out: the folder to write to. samples: how many, of what the suite counts; None before it is known which suite.
        beside: other checkpoints by label; `base` is the untouched language model.
        questions: JSONL of paragraphs with questions, `tasks`: a folder of classification tasks; DATA when None.
        cache: of tokenised documents.
    """

    suite: str
    checkpoint: Path
    data: Path
    out: Path
    samples: int | None
    cache: Path
    split: Literal["test", "valid"] = "test"
    seed: int = 0
    beside: Mapping[str, Path] = field(default_factory=dict)
    questions: Path | None = None
    tasks: Path | None = None
    device: torch.device | None = None

    def documents(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenisedDocuments]:
        """Tokenised documents by domain, those with training files beside them first."""
        found = documents_by_domain(self.data, self.split, tokenizer, self.cache)
        return dict(sorted(found.items(), key=lambda item: not self.is_in_domain(item[0])))

    @property
    def number(self) -> int:
        """The samples of a suite that runs."""
        assert self.samples is not None, "run_suite sets it"
        return self.samples

    def is_in_domain(self, domain: str) -> bool:
        return has_training_file(self.data, domain)

    @property
    def command(self) -> str:
        """The command line that gives the same figures."""
        flags: list[tuple[str, object]] = [
            ("suite", self.suite),
            ("checkpoint", self.checkpoint),
            ("data", self.data),
            ("split", self.split),
            ("samples", self.samples),
            ("seed", self.seed),
            *(("beside", f"{label}={path}") for label, path in self.beside.items()),
            *([("questions", self.questions)] if self.questions else []),
            *([("tasks", self.tasks)] if self.tasks else []),
            ("out", self.out),
        ]
        return " ".join(
            ["autocompressor train evaluate", *(f"--{name} {shlex.quote(str(value))}" for name, value in flags)]
        )
