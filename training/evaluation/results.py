"""What an evaluation measured of its models: merged, written and read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from model.atomic import written_aside
from training.evaluation.scores import Condition, DocumentScore, Domain, ModelScores

FORMAT_VERSION = 1
FIELDS = {"format_version", "segment_length", "contexts", "max_windows", "domains", "models"}


@dataclass(frozen=True)
class Evaluation:
    """Models by label, all scored on the same windows.

    Attributes:
        segment_length: tokens a segment; all but the first of each window's last one are scored.
        contexts: numbers of segments before it. max_windows: the most of a domain.
        domains: those in-domain first.
        models: of each label, the scores by domain and condition; a condition that does not fit a model is absent.
        recorded: labels of models that were read from a file, not measured.
    """

    segment_length: int
    contexts: tuple[int, ...]
    max_windows: int
    domains: tuple[Domain, ...]
    models: Mapping[str, ModelScores]
    recorded: frozenset[str] = field(default=frozenset(), compare=False)

    def merged(self, other: "Evaluation") -> "Evaluation":
        """The models of both, this one's first.

        Raises:
            ValueError: they were not scored on the same windows, or share a label.
        """
        for name, mine, others in (
            ("segment_length", self.segment_length, other.segment_length),
            ("max_windows", self.max_windows, other.max_windows),
            (
                "domains",
                sorted(domain.name for domain in self.domains),
                sorted(domain.name for domain in other.domains),
            ),
        ):
            if mine != others:
                raise ValueError(f"evaluations of different windows: {name} is {mine} in one and {others} in the other")
        different = [domain.name for domain in self.domains if domain not in other.domains]
        if different:
            raise ValueError(f"evaluations of different windows: the tokens of {', '.join(different)} differ")
        shared = self.models.keys() & other.models.keys()
        if shared:
            raise ValueError(f"both evaluations have a model labelled {', '.join(sorted(shared))}")
        return replace(
            self,
            contexts=tuple(sorted({*self.contexts, *other.contexts})),
            models={**self.models, **other.models},
            recorded=self.recorded | other.recorded,
        )

    def only(self, labels: Mapping[str, str]) -> "Evaluation":
        """The models of these labels, under the labels they map to."""
        return replace(
            self,
            models={new: self.models[old] for old, new in labels.items()},
            recorded=frozenset(new for old, new in labels.items() if old in self.recorded),
        )

    def write(self, path: Path) -> None:
        """Write JSON, which `read` reads."""
        stored = {
            "format_version": FORMAT_VERSION,
            "segment_length": self.segment_length,
            "contexts": self.contexts,
            "max_windows": self.max_windows,
            "domains": [asdict(domain) for domain in self.domains],
            "models": {
                label: {
                    domain: {condition.name: [asdict(score) for score in scores] for condition, scores in found.items()}
                    for domain, found in model.items()
                }
                for label, model in self.models.items()
            },
        }
        with written_aside(path) as aside:
            aside.write_text(json.dumps(stored) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Read what `write` wrote, every model of it as recorded.

        Raises:
            ValueError: it is something else, or of another format version.
        """
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict) or set(stored) != FIELDS or stored["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{path} is not an evaluation of format_version {FORMAT_VERSION}")
        return cls(
            segment_length=stored["segment_length"],
            contexts=tuple(stored["contexts"]),
            max_windows=stored["max_windows"],
            domains=tuple(Domain(**domain) for domain in stored["domains"]),
            models={label: _model_scores(model) for label, model in stored["models"].items()},
            recorded=frozenset(stored["models"]),
        )


def _model_scores(stored: dict[str, dict[str, list[dict[str, Any]]]]) -> ModelScores:
    return {
        domain: {Condition.parse(name): [DocumentScore(**score) for score in scores] for name, scores in found.items()}
        for domain, found in stored.items()
    }
