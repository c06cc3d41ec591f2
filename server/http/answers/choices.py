"""The choices of an answer: one generation each, all at the same time, in pieces as their text becomes certain."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from server.core.receipts import Stopwatch
from server.core.together import merged
from server.engine.protocol import Decoder, FinishReason, Prompt, SamplingParams, TokenEvent

LEAST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability, None where it has none, and the most likely ones in its place."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that became certain, the tokens since the piece before it, and why the choice ends, where it does."""

    text: str
    tokens: tuple[Scored, ...]
    finish_reason: FinishReason | None


@dataclass
class Whole:
    """A choice to its end."""

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    finish_reason: FinishReason = "length"

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason or self.finish_reason


class Choices:
    """Runs generations beside each other; `num_generated` tokens so far, in the time that `watch` tells."""

    def __init__(
        self,
        decoder: Decoder,
        work: Sequence[tuple[Prompt, SamplingParams]],
        watch: Stopwatch,
        *,
        limit: int,
        gap: str = "",
    ) -> None:
        """
        Args:
            limit: how many of them run at a time.
            gap: what is taken from the beginning of their texts, where they begin with it.
        """
        self._gap = gap
        self._decoder = decoder
        self._work = work
        self.limit = limit
        self.watch = watch
        self.num_generated = 0

    @property
    def known_tokens(self) -> int:
        """Of the prompt's own tokens, those that its one choice did not read; 0 for several, which read together."""
        return self.watch.meter.known_tokens if len(self._work) == 1 else 0

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece]]:
        """Each with the index of its choice; the last of a choice has a finish reason."""
        # the first is refused where there is no room, and with it the request; of one that was taken the others wait
        streams = [self._pieces(*each, waits=place > 0) for place, each in enumerate(self._work)]
        started, before = time.monotonic(), self.watch.engine_seconds
        async with aclosing(merged(streams, limit=self.limit)) as pieces:
            async for index, piece in pieces:
                self.watch.engine_seconds = before + time.monotonic() - started
                yield index, piece

    async def whole(self) -> list[Whole]:
        choices = [Whole() for _ in self._work]
        async with aclosing(self.pieces()) as pieces:
            async for index, piece in pieces:
                choices[index].add(piece)
        return choices

    async def _pieces(self, prompt: Prompt, params: SamplingParams, *, waits: bool) -> AsyncGenerator[Piece]:
        if params.max_tokens == 0:
            yield Piece("", (), "length")
            return
        tokens: list[Scored] = []
        gap = self._gap
        async with aclosing(self._decoder.generate(prompt, params, meter=self.watch.meter, waits=waits)) as events:
            async for event in events:
                self.num_generated += 1
                tokens.append(_scored(event))
                if event.text or event.finish_reason is not None:
                    yield Piece(event.text.removeprefix(gap), tuple(tokens), event.finish_reason)
                    gap = "" if event.text else gap
                    tokens.clear()


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _scored(event: TokenEvent) -> Scored:
    return Scored(event.token_id, event.logprob, event.top_logprobs)
