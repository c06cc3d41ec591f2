"""What the server asks of an engine, in two parts: vectors may come from one, and answers from another."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from model.compressors import SegmentSummary

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, in the terms of vLLM's parameters of the same names.

    Attributes:
        temperature: 0 takes the most likely. seed: None draws one.
        ignore_eos: the end-of-text token does not end the generation.
        logit_bias: token ids, and what is added to their logits.
        stop_token_ids: tokens that end the generation as the end-of-text token does, `ignore_eos` or not.
        num_logprobs: how many of the most likely tokens to report with each that is chosen.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    num_logprobs: int = 0

    @property
    def has_adjustments(self) -> bool:
        """Whether logits change before temperature and truncation."""
        penalties = (self.repetition_penalty - 1.0, self.frequency_penalty, self.presence_penalty)
        return any(penalties) or bool(self.logit_bias)


@dataclass(frozen=True)
class Prompt:
    """What a continuation is conditioned on: `soft_prompt` (P, D) on the CPU, None for none, then tokens.

    `keys`: ids of the segments whose vectors the soft prompt consists of, as many vectors each; equal ids mean equal
    vectors, and what was computed of them is used again. Empty where they have none.
    `key_lengths`: how many vectors each of the keys stands for; empty for equal shares of the soft prompt.
    `scope`: whose prompts may go on from what is computed of this one's tokens, those of the same scope; None for none.
    """

    soft_prompt: Tensor | None
    token_ids: tuple[int, ...]
    keys: tuple[str, ...] = ()
    key_lengths: tuple[int, ...] = ()
    scope: str | None = None

    @property
    def num_positions(self) -> int:
        return len(self.token_ids) + (0 if self.soft_prompt is None else self.soft_prompt.shape[0])


@dataclass
class Meter:
    """What calls took, written as they run; several may share one.

    `queue_seconds`: the longest wait for a first forward pass. `known_positions`: of soft prompts, those that were not
    read again because their keys and values were in memory; `known_tokens`: of the tokens after them.
    """

    queue_seconds: float = 0.0
    known_positions: int = 0
    known_tokens: int = 0


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        text: what became certain with this token; empty while a character or a stop string may still be incomplete.
        logprob: natural logarithm, of the model's own distribution, before penalties, temperature and truncation.
        finish_reason: set on the last event.
        top_logprobs: the most likely tokens and theirs, as many as were asked for.
    """

    token_id: int
    text: str
    logprob: float
    finish_reason: FinishReason | None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities of a continuation's tokens, each given all before it.

    `top_logprobs`: for each, the most likely tokens and theirs, as many as were asked for; empty where none were.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()

    @property
    def total(self) -> float:
        """The continuation's own log-probability."""
        return sum(self.logprobs)


class Ready(Protocol):
    """What may be asked for work. Every call ends in a result or a `ServiceError`; closing an iterator cancels it.

    A call that is given a `meter` writes to it. One that `waits` waits for room in the line, for a while, where others
    are refused as `Overloaded`.
    """

    @property
    def is_ready(self) -> bool:
        """Whether calls can succeed."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether another request would be refused now."""
        ...


class Encoder(Ready, Protocol):
    """Makes summary vectors of segments."""

    def compress(
        self,
        segments: Sequence[Sequence[int]],
        *,
        soft_prompt: Tensor | None = None,
        keys: Sequence[str] = (),
        meter: Meter | None = None,
        waits: bool = False,
    ) -> AsyncGenerator[SegmentSummary]:
        """Yield the summary of each segment in order, on the CPU, as they finish.

        Args:
            keys: ids as in `Prompt`, of the soft prompt's segments and then of these; empty where they have none.
        """
        ...


class Decoder(Ready, Protocol):
    """Continues prompts, and scores continuations of them."""

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """The input embeddings of tokens, (n, D) on the CPU: text as part of a soft prompt. For any thread."""
        ...

    def generate(
        self, prompt: Prompt, params: SamplingParams, *, meter: Meter | None = None, waits: bool = False
    ) -> AsyncGenerator[TokenEvent]:
        """Yield tokens until one has a finish reason."""
        ...

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[Sequence[int]],
        *,
        num_logprobs: int = 0,
        meter: Meter | None = None,
        waits: bool = False,
    ) -> list[TokenLogprobs]:
        """The log-probabilities of each continuation's tokens after the prompt.

        Args:
            num_logprobs: how many of the most likely tokens to report with each.
        """
        ...


class Engine(Encoder, Decoder, Protocol):
    """Both in one, as the built-in one is: its vectors and its prompts share the device."""


class OwnEngine(Engine, Protocol):
    """One that whoever built it starts before the first call, and stops after the last."""

    @property
    def max_document_vectors(self) -> int | None:
        """How many vectors of a document there is memory for before its last segment; None for any number."""
        ...

    def start(self) -> None:
        """Begin to serve; ValueError where it cannot."""
        ...

    def stop(self) -> None:
        """Blocks until it has ended; whoever still waits gets `NotReady`."""
        ...
