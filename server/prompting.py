"""Parts, stored summaries and texts in order, to what the engine reads: one soft prompt and token ids."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.compressors import SegmentSummary
from server.compression import UNFINISHED_SECONDS, Compressor
from server.engine.protocol import Prompt
from server.errors import InvalidRequest, TooLong
from server.metrics import Metrics
from server.served_model import ServedModel
from server.summaries import Summaries, Summary

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
Source = Summary | tuple[int, ...]  # what conditions a prompt: a stored summary, or token ids to compress


@dataclass(frozen=True)
class Fields:
    """The fields that a prompt's summaries and its own tokens came from, for errors."""

    summaries: str = "summary_ids"
    tokens: str = "prompt"


@dataclass(frozen=True)
class Plan:
    """A prompt before any work for it: what conditions it, and its own tokens.

    Attributes:
        num_vectors: positions its soft prompt will take. summarised_tokens: document tokens those stand for.
        room: how many tokens can follow; less than 1 where not even one can.
        fields: of the request, for errors.
    """

    sources: tuple[Source, ...]
    token_ids: tuple[int, ...]
    num_vectors: int
    summarised_tokens: int
    room: int
    fields: Fields


@dataclass(frozen=True)
class Gathered:
    """What a source conditions with: `segments`, which `keys` name.

    `cached_segments`: how many of a text's segments were not computed for it; 0 for a stored summary.
    """

    segments: tuple[SegmentSummary, ...]
    keys: tuple[str, ...]
    cached_segments: int

    @property
    def vectors(self) -> Tensor:
        """All vectors in order, (P, D)."""
        return torch.cat([segment.vectors for segment in self.segments])


class Prompter:
    """Plans prompts, refuses those that can never fit, and assembles the others."""

    def __init__(self, model: ServedModel, summaries: Summaries, compressor: Compressor, metrics: Metrics) -> None:
        self._model = model
        self._summaries = summaries
        self._compressor = compressor
        self._metrics = metrics

    async def plan(self, parts: Sequence[Part], fields: Fields = Fields()) -> Plan:
        """Look up the summaries and tokenise the texts; nothing is computed or stored yet.

        A soft prompt stands before all tokens, so a text between summaries is to be compressed in its place.

        Raises:
            InvalidRequest: no token follows the summaries: nothing to predict from.
            SummaryNotFound, ModelMismatch: of a part.
        """
        last = max((index for index, part in enumerate(parts) if isinstance(part, SummaryPart)), default=-1)
        conditioning = [part for part in parts[: last + 1] if part != TextPart("")]
        sources = tuple([await self._source(part, fields.summaries) for part in conditioning])
        text = "".join(part.text for part in parts[last + 1 :] if isinstance(part, TextPart))
        token_ids = await asyncio.to_thread(self._model.tokenise, text, is_start=not sources)
        return self.plan_tokens(sources, token_ids, fields)

    def plan_tokens(self, sources: tuple[Source, ...], token_ids: Sequence[int], fields: Fields = Fields()) -> Plan:
        """A plan of tokens as they are, after these sources; InvalidRequest where there is no token."""
        if not token_ids:
            raise InvalidRequest(
                "the prompt is empty: at least 1 token is needed, after the summaries if there are any",
                param=fields.tokens,
            )
        num_vectors = sum(self._num_vectors(source) for source in sources)
        return Plan(
            sources,
            tuple(token_ids),
            num_vectors=num_vectors,
            summarised_tokens=sum(source.tokens if isinstance(source, Summary) else len(source) for source in sources),
            room=self.room(num_vectors, len(token_ids)),
            fields=fields,
        )

    def room(self, num_vectors: int, num_tokens: int) -> int:
        """How many tokens fit after so many vectors and prompt tokens; may be negative."""
        by_positions = self._model.positions.capacity(num_vectors, 0) - num_tokens
        return min(by_positions, self._model.max_sequence_tokens - num_vectors - num_tokens)

    def max_tokens(self, plan: Plan, wanted: int | None) -> int:
        """How many tokens to generate: as many as asked for, or by default as many as fit up to a fixed number.

        Raises:
            TooLong: more than can follow the prompt.
        """
        if plan.room < (wanted or 1):
            raise TooLong(
                f"{self._described(plan)}; {wanted or 1} new ones were asked for",
                param=self.at_fault(plan) if plan.room < 1 else "max_tokens",
            )
        return min(plan.room, DEFAULT_MAX_TOKENS) if wanted is None else wanted

    def require_fits(self, plan: Plan, continuation: Sequence[int], *, param: str) -> None:
        """Refuse a continuation to score that is empty or does not fit after the prompt."""
        if not continuation:
            raise InvalidRequest(f"{param} has 0 tokens", param=param)
        if len(continuation) > plan.room:
            at_fault = self.at_fault(plan) if plan.room < 1 else param
            raise TooLong(f"{self._described(plan)}; {param} has {len(continuation)}", param=at_fault)

    def at_fault(self, plan: Plan) -> str:
        """Of a prompt that leaves no room, the field: of its summaries where one token could not stand after them."""
        return plan.fields.summaries if self.room(plan.num_vectors, 1) < 1 else plan.fields.tokens

    async def assemble(self, plan: Plan) -> Prompt:
        """Fuse the summaries in order (arXiv 2305.14788, section 5), compressing the texts among them."""
        gathered = [await self.gather(source) for source in plan.sources]
        self._metrics.tokens_saved.inc(max(0, plan.summarised_tokens - plan.num_vectors))
        return fused(gathered, plan.token_ids)

    async def gather(self, source: Source) -> Gathered:
        """Read a summary's vectors; token ids are compressed first, and kept as long as an unfinished document."""
        cached_segments = 0
        if isinstance(source, Summary):
            summary = source
        else:
            done = await self._compressor.compress(source, ttl_seconds=UNFINISHED_SECONDS)
            summary, cached_segments = done.summary, done.cached_segments
        segments = await self._summaries.vectors(summary)
        return Gathered(tuple(segments), self._summaries.conditioning_keys(summary), cached_segments)

    async def _source(self, part: Part, param: str) -> Source:
        if isinstance(part, SummaryPart):
            return await self._summaries.get(part.summary_id, param=param)
        return tuple(await asyncio.to_thread(self._model.tokenise, part.text, is_start=True))

    def _num_vectors(self, source: Source) -> int:
        if isinstance(source, Summary):
            return source.manifest.vectors
        return self._model.num_vectors(self._model.segment_lengths(len(source)))

    def _described(self, plan: Plan) -> str:
        return (
            f"{plan.num_vectors} summary vectors and {len(plan.token_ids)} prompt tokens leave room for "
            f"{max(plan.room, 0)} tokens in {self._model.max_sequence_tokens} positions"
        )


def fused(gathered: Sequence[Gathered], token_ids: tuple[int, ...]) -> Prompt:
    """A prompt after all of these in order."""
    segments = [segment for each in gathered for segment in each.segments]
    return Prompt(
        torch.cat([segment.vectors for segment in segments]) if segments else None,
        token_ids,
        tuple(key for each in gathered for key in each.keys),
        tuple(map(len, segments)),
    )
