"""Parts, stored summaries and texts in order, to what the engine reads: one soft prompt and token ids."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from server.compression import UNFINISHED_SECONDS, Compressor
from server.engine.protocol import Prompt
from server.errors import InvalidRequest, TooLong
from server.metrics import Metrics
from server.served_model import ServedModel
from server.summaries import Summaries

DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True)
class SummaryPart:
    """A stored summary."""

    summary_id: str


@dataclass(frozen=True)
class TextPart:
    """A text, read as it is after the last summary and compressed before it."""

    text: str


Part = SummaryPart | TextPart


@dataclass(frozen=True)
class Assembled:
    """A prompt, and what it stands for.

    Attributes:
        summarised_tokens: document tokens behind the soft prompt's vectors.
    """

    prompt: Prompt
    summarised_tokens: int

    @property
    def num_vectors(self) -> int:
        return self.prompt.num_positions - len(self.prompt.token_ids)


class Prompter:
    """Assembles prompts and refuses those that can never fit."""

    def __init__(self, model: ServedModel, summaries: Summaries, compressor: Compressor, metrics: Metrics) -> None:
        self._model = model
        self._summaries = summaries
        self._compressor = compressor
        self._metrics = metrics

    async def assemble(self, parts: Sequence[Part]) -> Assembled:
        """Fuse the summaries in order (arXiv 2305.14788, section 5) and tokenise the texts after the last of them.

        A soft prompt stands before all tokens, so a text between summaries is compressed in its place.

        Raises:
            InvalidRequest: no token follows the summaries: nothing to predict from.
            SummaryNotFound, ModelMismatch: of a part.
        """
        last = max((index for index, part in enumerate(parts) if isinstance(part, SummaryPart)), default=-1)
        vectors: list[Tensor] = []
        summarised_tokens = 0
        for part in parts[: last + 1]:
            if part == TextPart(""):
                continue
            made, num_tokens = await self._vectors(part)
            vectors.append(made)
            summarised_tokens += num_tokens
        text = "".join(part.text for part in parts[last + 1 :] if isinstance(part, TextPart))
        token_ids = await asyncio.to_thread(self._model.tokenise, text, is_start=not vectors)
        if not token_ids:
            raise InvalidRequest("the prompt is empty: at least 1 token must follow the summaries", param="prompt")
        prompt = Prompt(torch.cat(vectors) if vectors else None, tuple(token_ids))
        assembled = Assembled(prompt, summarised_tokens)
        self._metrics.tokens_saved.inc(max(0, summarised_tokens - assembled.num_vectors))
        return assembled

    def room(self, prompt: Prompt) -> int:
        """How many tokens can follow a prompt; less than 1 where not even one can."""
        num_vectors = prompt.num_positions - len(prompt.token_ids)
        by_positions = self._model.positions.capacity(num_vectors, 0) - len(prompt.token_ids)
        return min(by_positions, self._model.max_sequence_tokens - prompt.num_positions)

    def max_tokens(self, prompt: Prompt, wanted: int | None) -> int:
        """How many tokens to generate: as many as asked for, or by default as many as fit up to a fixed number.

        Raises:
            TooLong: more than can follow the prompt.
        """
        room = self.room(prompt)
        if room < (wanted or 1):
            raise TooLong(
                f"{self._described(prompt, room)}; {wanted or 1} new ones were asked for",
                param="prompt" if room < 1 else "max_tokens",
            )
        return min(room, DEFAULT_MAX_TOKENS) if wanted is None else wanted

    def require_fits(self, prompt: Prompt, continuation: Sequence[int], *, param: str) -> None:
        """Refuse a continuation to score that does not fit after the prompt."""
        room = self.room(prompt)
        if len(continuation) > room:
            raise TooLong(
                f"{self._described(prompt, room)}; {param} has {len(continuation)}",
                param=param,
            )

    def _described(self, prompt: Prompt, room: int) -> str:
        num_vectors = prompt.num_positions - len(prompt.token_ids)
        return (
            f"{num_vectors} summary vectors and {len(prompt.token_ids)} prompt tokens leave room for "
            f"{max(room, 0)} tokens in {self._model.max_sequence_tokens} positions"
        )

    async def _vectors(self, part: Part) -> tuple[Tensor, int]:
        if isinstance(part, SummaryPart):
            summary = await self._summaries.get(part.summary_id, param="summary_ids")
        else:
            token_ids = await asyncio.to_thread(self._model.tokenise, part.text, is_start=True)
            compressed = await self._compressor.compress(token_ids, ttl_seconds=UNFINISHED_SECONDS)
            summary = compressed.summary
        return await self._summaries.vectors(summary), summary.tokens
