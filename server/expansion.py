"""Segments of stored summaries that a prompt speaks of, read as their text again, in their place among the vectors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.bm25 import relevances
from server.errors import Internal, InvalidRequest
from server.gathering import Share
from server.prompting import Plan, Prompter
from server.served_model import ServedModel
from server.summaries import Summaries, Summary


@dataclass(frozen=True)
class Expanded:
    """A segment that is read as its text: its place among its summary's, from 0, and how many tokens it has."""

    summary_id: str
    segment: int
    tokens: int


@dataclass(frozen=True)
class _Candidate:
    """A segment that can be expanded: of the plan's source at `index`, at `place` of its share."""

    index: int
    place: int
    key: str


class Expander:
    """Chooses the segments by BM25 of the prompt's words over their texts."""

    def __init__(self, model: ServedModel, summaries: Summaries, prompter: Prompter) -> None:
        self._model = model
        self._summaries = summaries
        self._prompter = prompter

    async def expanded(self, plan: Plan, num_segments: int | None, query: str | None = None) -> Plan:
        """The plan with so many segments, those that matter most, as text; None expands nothing.

        Segments that share no word with the query stay vectors.

        Args:
            query: what is asked; None is the prompt's own text.

        Raises:
            InvalidRequest: there is no summary, or one whose text was not kept. And what the store raises.
        """
        if num_segments is None:
            return plan
        candidates = self._candidates(plan)
        texts = await self._texts(candidates)
        asked = self._decode(plan.token_ids) if query is None else query
        scores = await asyncio.to_thread(lambda: relevances(asked, [self._decode(text) for text in texts]))
        # of equal ones the newest
        order = sorted(range(len(candidates)), key=lambda place: (-scores[place], -place))
        chosen = [candidates[place] for place in order[:num_segments] if scores[place] > 0]
        shares = [
            self._share(plan, index, {each.place for each in chosen if each.index == index})
            for index in range(len(plan.shares))
        ]
        return self._prompter.planned(plan.sources, shares, plan.token_ids, plan.fields)

    def _candidates(self, plan: Plan) -> list[_Candidate]:
        candidates = []
        for index, source in enumerate(plan.sources):
            if not isinstance(source, Summary):
                continue
            if not source.manifest.has_text:
                raise InvalidRequest(
                    f"the text of summary {source.id!r} was not kept; compress its document again with `keep_text`",
                    param="expand",
                )
            keys = self._model.conditioning(source.manifest.segments)
            candidates += [_Candidate(index, place, key) for place, key in enumerate(keys)]
        if not candidates:
            raise InvalidRequest("there is no stored summary whose segments could be expanded", param="expand")
        return candidates

    async def _texts(self, candidates: Sequence[_Candidate]) -> list[tuple[int, ...]]:
        keys = list(dict.fromkeys(each.key for each in candidates))
        stored = dict(zip(keys, await self._summaries.segments.texts(keys), strict=True))
        texts = [text for each in candidates if (text := stored[each.key]) is not None]
        if len(texts) < len(candidates):
            raise Internal("a segment's text is not in the store; delete the summary and compress its document again")
        return texts

    def _share(self, plan: Plan, index: int, places: set[int]) -> Share:
        share, tokens = plan.shares[index], self._prompter.tokens_of(plan.sources[index])
        lengths = (tokens[place] if place in places else length for place, length in enumerate(share.lengths))
        return replace(share, lengths=tuple(lengths), expanded=frozenset(places))

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._model.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text


def expanded_segments(plan: Plan) -> list[Expanded]:
    """The segments that a plan reads as text, in their order."""
    found = []
    for source, share in zip(plan.sources, plan.shares, strict=True):
        if isinstance(source, Summary):
            before = len(source.manifest.segments) - len(share.lengths)  # in RMT mode only the last conditions
            found += [Expanded(source.id, before + place, share.lengths[place]) for place in sorted(share.expanded)]
    return found
