"""What the server asks of an engine."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens. Temperature 0 takes the most likely; `seed` None draws one."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """What a continuation is conditioned on: `soft_prompt` (P, D) on the CPU, None for none, then tokens."""

    soft_prompt: Tensor | None
    token_ids: tuple[int, ...]

    @property
    def num_positions(self) -> int:
        return len(self.token_ids) + (0 if self.soft_prompt is None else self.soft_prompt.shape[0])


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        text: what became certain with this token; empty while a character or a stop string may still be incomplete.
        logprob: natural logarithm, of the model's own distribution, before temperature and truncation.
        finish_reason: set on the last event.
    """

    token_id: int
    text: str
    logprob: float
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities of a continuation's tokens, each given all before it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Engine(Protocol):
    """Runs a model. Every call ends in a result or a `ServiceError`; closing an iterator cancels its work."""

    @property
    def is_ready(self) -> bool:
        """Whether calls can succeed."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether another request would be refused now."""
        ...

    def compress(
        self, segments: Sequence[Sequence[int]], *, soft_prompt: Tensor | None = None
    ) -> AsyncGenerator[Tensor]:
        """Yield the summary vectors of each segment, (S, D) on the CPU, as they finish."""
        ...

    def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[TokenEvent]:
        """Yield tokens until one has a finish reason."""
        ...

    async def score(self, prompt: Prompt, continuations: Sequence[Sequence[int]]) -> list[TokenLogprobs]:
        """The log-probabilities of each continuation's tokens after the prompt."""
        ...
