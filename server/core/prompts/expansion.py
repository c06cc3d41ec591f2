"""Segments that a prompt speaks of, read as their text again, in their place among the vectors of the others."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.bm25 import Passages
from server.core.documents.summaries import AllSummaries, Summary
from server.core.prompts.gathering import Share
from server.core.prompts.plan import Condition, Plan
from server.core.prompts.prompting import Prompter
from server.core.served_model import ServedModel
from server.errors import Internal, InvalidRequest

QUERY_TOKENS = 128  # of a prompt's own text, its last


@dataclass(frozen=True)
class _Candidate:
    """A segment that can be expanded: of the plan's source at `index`, at `place` of its share."""

    index: int
    place: int


class Expander:
    """Chooses the segments by BM25 of the prompt's words over their texts."""

    def __init__(self, model: ServedModel, summaries: AllSummaries, prompter: Prompter) -> None:
        self._model = model
        self._summaries = summaries
        self._prompter = prompter

    async def conditioned(self, plan: Plan, condition: Condition) -> Plan:
        """The plan with the segments as text that are wanted; InvalidRequest where it has no summary."""
        if condition.expanded_segments and not plan.sources:
            raise InvalidRequest("there is no summary whose segments could be expanded", param="expand")
        return await self.expanded(plan, condition.expanded_segments)

    async def expanded(self, plan: Plan, num_segments: int, query: str | None = None) -> Plan:
        """The plan with so many segments more, those that matter most, as text.

        Segments that share no word with the query stay vectors.

        Args:
            query: what is asked; None is the prompt's own text, of a long one the end.

        Raises:
            InvalidRequest: the model cannot read text among vectors, that of a summary was not kept, or nothing is
                asked. And what the store raises.
        """
        if not num_segments:
            return plan
        if query is None and not plan.token_ids:
            raise InvalidRequest("the prompt is empty: it speaks of no segment to expand", param="expand")
        self._require_possible()
        candidates = self._candidates(plan)
        if not candidates:
            return plan
        scores = await asyncio.to_thread(self._scores, plan, await self._texts(plan, candidates), query)
        # of equal ones the newest
        order = sorted(range(len(candidates)), key=lambda place: (-scores[place], -place))
        chosen = [candidates[place] for place in order[:num_segments] if scores[place] > 0]
        shares = [
            self._share(plan, index, share.expanded | {each.place for each in chosen if each.index == index})
            for index, share in enumerate(plan.shares)
        ]
        return self._prompter.planned(plan.call, plan.sources, shares, plan.token_ids)

    @property
    def is_possible(self) -> bool:
        """Whether the model can read text among vectors."""
        return self._model.positions.counts_soft_prompt and self._model.config.accumulate_summary

    def _require_possible(self) -> None:
        """Refuse a model whose soft prompts have no order of their own, or whose last segment stands for all."""
        config, positions = self._model.config, self._model.positions
        if not positions.counts_soft_prompt:
            raise InvalidRequest(
                f"the soft prompts of {self._model.name!r} take no positions: text among them would lose its order",
                param="expand",
            )
        if not config.accumulate_summary:
            raise InvalidRequest(
                f"{self._model.name!r} keeps the vectors of the last segment alone, which stand for all before it: "
                "it cannot be expanded",
                param="expand",
            )

    def _scores(self, plan: Plan, texts: Sequence[Sequence[int]], query: str | None) -> Sequence[float]:
        asked = self._model.decode(plan.token_ids[-QUERY_TOKENS:]) if query is None else query
        scores: list[float] = Passages([self._model.decode(text) for text in texts]).scores(asked).tolist()
        return scores

    def _candidates(self, plan: Plan) -> list[_Candidate]:
        candidates = []
        for index, source in enumerate(plan.sources):
            if isinstance(source, Summary) and not source.manifest.has_text:
                raise InvalidRequest(
                    f"the text of summary {source.id!r} was not kept; compress its document again with `keep_text`",
                    param="expand",
                )
            candidates += [
                _Candidate(index, place)
                for place in range(len(plan.shares[index].lengths))
                if place not in plan.shares[index].expanded
            ]
        return candidates

    async def _texts(self, plan: Plan, candidates: Sequence[_Candidate]) -> list[tuple[int, ...]]:
        """The tokens of each, from the store where the plan does not have them itself."""
        keys = {
            each: self._model.conditioning(source.manifest.segments)[each.place]
            for each in candidates
            if isinstance(source := plan.sources[each.index], Summary)
        }
        carried = {
            each: source.carried[key]
            for each, key in keys.items()
            if isinstance(source := plan.sources[each.index], Summary) and key in source.carried
        }
        wanted = list(dict.fromkeys(key for each, key in keys.items() if each not in carried))
        segments = self._summaries.of(plan.call.tenant).segments
        stored = dict(zip(wanted, await segments.texts(wanted), strict=True))
        texts = []
        for each in candidates:
            source = plan.sources[each.index]
            if isinstance(source, tuple):
                text: tuple[int, ...] | None = self._model.segment_of(source, each.place)
            else:
                text = carried[each].token_ids if each in carried else stored[keys[each]]
            if text is not None:
                texts.append(text)
        if len(texts) < len(candidates):
            raise Internal("a segment's text is not in the store; delete the summary and compress its document again")
        return texts

    def _share(self, plan: Plan, index: int, places: frozenset[int]) -> Share:
        share, tokens = plan.shares[index], self._prompter.tokens_of(plan.sources[index])
        lengths = (tokens[place] if place in places else length for place, length in enumerate(share.lengths))
        return replace(share, lengths=tuple(lengths), expanded=places)
