"""The loss of every document of a domain under each condition, and what conditions and domains there are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

AUTOCOMPRESSOR, RMT, EXTENDED = "AutoCompressor", "RMT", "extended full attention"  # labels that tables know
LABELS = {  # by training method
    "autocompressor": AUTOCOMPRESSOR,
    "rmt": RMT,
    "full-attention": EXTENDED,
    "no-context": "fine-tuned without context",
}
TOGETHER = "all domains"  # the row of all domains' documents at once, as means over domains in Table 1 of the paper


@dataclass(frozen=True)
class Condition:
    """How many segments stand before the scored one, and whether as summary vectors or in full."""

    num_segments: int
    is_compressed: bool

    @property
    def name(self) -> str:
        if not self.num_segments:
            return "no context"
        return f"{self.num_segments} {'compressed' if self.is_compressed else 'in full'}"

    @classmethod
    def parse(cls, name: str) -> "Condition":
        """The condition of that `name`; ValueError where there is none."""
        count, _, form = name.partition(" ")
        condition = cls(int(count), form == "compressed") if count.isdecimal() else NO_CONTEXT
        if condition.name != name:
            raise ValueError(f"{name!r} is no condition")
        return condition


NO_CONTEXT = Condition(0, is_compressed=False)


def conditions_of(contexts: Iterable[int]) -> list[Condition]:
    """No context, then each number of segments compressed, then each in full."""
    counts = sorted(contexts)
    return [NO_CONTEXT, *(Condition(count, is_compressed) for is_compressed in (True, False) for count in counts)]


@dataclass(frozen=True)
class DocumentScore:
    """Of a document, by its place in the domain: the summed negative log-likelihood of its scored tokens, in nats."""

    document: int
    nll: float
    tokens: int


DomainScores = Mapping[Condition, Sequence[DocumentScore]]
ModelScores = Mapping[str, DomainScores]


def perplexity(scores: Sequence[DocumentScore]) -> float:
    """exp of the mean negative log-likelihood of all tokens."""
    return math.exp(sum(score.nll for score in scores) / sum(score.tokens for score in scores))


@dataclass(frozen=True)
class Domain:
    """A domain that was scored.

    Attributes:
        digest: SHA-256 of its windows' tokens.
        is_in_domain: whether the folder it is from has training documents of the domain.
    """

    name: str
    digest: str
    is_in_domain: bool = field(default=False, compare=False)
