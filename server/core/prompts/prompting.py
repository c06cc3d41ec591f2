"""Parts, stored summaries and texts in order, to what the engine reads: one soft prompt and token ids."""

from collections.abc import Sequence
from functools import partial

from server.core.documents.summaries import AllSummaries, Summary
from server.core.prompts.forgetting import in_proportion, remembered
from server.core.prompts.gathering import Gathered, Gatherer, Share, Source, fused
from server.core.prompts.plan import Call, CompactionPart, Part, Plan, SummaryPart, TextPart
from server.core.responses.opening import Opener
from server.core.responses.transcript import told
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import Prompt
from server.errors import InvalidRequest, TooLong
from server.metrics import Metrics

DEFAULT_MAX_TOKENS = 128


class Prompter:
    """Plans prompts, refuses those that can never fit, and assembles the others."""

    def __init__(
        self, model: ServedModel, summaries: AllSummaries, opener: Opener, gatherer: Gatherer, metrics: Metrics
    ) -> None:
        self._model = model
        self._summaries = summaries
        self._opener = opener
        self._gatherer = gatherer
        self._metrics = metrics

    @property
    def window(self) -> int:
        """Positions of a prompt and what follows it."""
        return self._model.window

    async def plan(
        self, call: Call, parts: Sequence[Part], *, max_vectors: int | None = None, is_bounded: bool = False
    ) -> Plan:
        """Look up the summaries and tokenise the texts; nothing is computed or stored yet.

        A soft prompt stands before all tokens, so a text between summaries is to be compressed in its place.

        Args:
            is_bounded: the texts after the last summary have to fit the window as they are.

        Raises:
            TooLong: they are bounded, and their beginning alone does not fit.
            InvalidRequest: as `plan_tokens` and `ServedModel.tokenise`.
            SummaryNotFound, ModelMismatch, CompactionExpired: of a part.
        """
        opened = [each for part in parts for each in await self._opened(call, part)]
        last = max((index for index, part in enumerate(opened) if not isinstance(part, TextPart)), default=-1)
        conditioning = [part for part in opened[: last + 1] if part != TextPart("")]
        sources = tuple([await self._source(part, call.tenant, call.summaries) for part in conditioning])
        text = "".join(part.text for part in opened[last + 1 :] if isinstance(part, TextPart))
        tokenise = self._model.tokenise_within if is_bounded else self._model.tokenise
        work = partial(tokenise, text, is_start=not sources, param=call.tokens)
        token_ids = await self._model.long_texts.in_thread(len(text), work)
        return self.plan_tokens(call, sources, token_ids, max_vectors=max_vectors)

    def plan_tokens(
        self,
        call: Call,
        sources: tuple[Source, ...],
        token_ids: Sequence[int],
        *,
        max_vectors: int | None = None,
    ) -> Plan:
        """A plan of tokens as they are, after these sources.

        Args:
            max_vectors: of each source, its most important ones; None for all.

        Raises:
            InvalidRequest: there is neither a token nor a vector to predict from, or fewer vectors are wanted of a
                model whose vectors have no order.
        """
        if max_vectors is not None and not self._model.is_ordered:
            raise InvalidRequest(
                f"max_vectors is {max_vectors}: this model's vectors have no order of importance, and are all read",
                param="max_vectors",
            )
        plan = self.planned(call, sources, [self.share(source, max_vectors) for source in sources], token_ids)
        if not token_ids and not plan.num_positions:
            raise InvalidRequest(
                "the prompt is empty: at least 1 token is needed where no summary stands before it", param=call.tokens
            )
        return plan

    def share(self, source: Source, max_vectors: int | None) -> Share:
        """So many of a source's vectors, the most important ones, shared out over its segments; None is all."""
        counts = self.counts(source)
        return Share(counts if max_vectors is None else in_proportion(counts, max_vectors))

    def planned(self, call: Call, sources: Sequence[Source], shares: Sequence[Share], token_ids: Sequence[int]) -> Plan:
        """A plan of these shares of the sources."""
        num_positions = sum(sum(share.lengths) for share in shares)
        thinned = 0
        if self._model.is_ordered:
            for source, share in zip(sources, shares, strict=True):
                pairs = enumerate(zip(self.counts(source), share.lengths, strict=True))
                thinned += sum(most - length for place, (most, length) in pairs if place not in share.expanded)
        return Plan(
            tuple(sources),
            tuple(shares),
            tuple(token_ids),
            summarised_tokens=sum(source.tokens if isinstance(source, Summary) else len(source) for source in sources),
            thinned_vectors=thinned,
            room=self.room(num_positions, len(token_ids)),
            call=call,
        )

    def tokens_of(self, source: Source) -> Sequence[int]:
        """How many tokens each segment of a source has that conditions what follows."""
        return self._model.conditioning(self._segment_tokens(source))

    def read_of(self, source: Source, share: Share) -> list[int]:
        """How many tokens each segment of a source has that is not left out; in RMT mode the last stands for all."""
        tokens = self._segment_tokens(source)
        lengths = (1,) * (len(tokens) - len(share.lengths)) + share.lengths
        return [num_tokens for num_tokens, length in zip(tokens, lengths, strict=True) if length]

    def counts(self, source: Source) -> tuple[int, ...]:
        """How many vectors each of those segments has."""
        return tuple(map(self._model.config.num_vectors, self.tokens_of(source)))

    def room(self, num_vectors: int, num_tokens: int) -> int:
        """How many tokens fit after so many vectors and prompt tokens; may be negative."""
        by_positions = self._model.positions.capacity(num_vectors, 0) - num_tokens
        return min(by_positions, self._model.max_sequence_tokens - num_vectors - num_tokens)

    def room_for_vectors(self, num_tokens: int) -> int:
        """How many vectors fit before so many tokens, those to generate among them; may be negative."""
        rows = self._model.max_sequence_tokens - num_tokens
        if self._model.positions.counts_soft_prompt:
            return min(rows, self._model.positions.max_positions - num_tokens)
        return rows if num_tokens <= self._model.positions.max_positions else 0

    def fitted(self, plan: Plan, num_new: int) -> Plan:
        """The plan, its summaries thinned where they leave no room for so many tokens and their vectors have an order.

        They then take half of the window, or what is left of it.
        """
        if plan.room >= num_new or not self._model.is_ordered:
            return plan
        left = self.room_for_vectors(len(plan.token_ids) + num_new) - plan.expanded_tokens
        room = min(left, self.window // 2)
        return self.thinned(plan, room) if room > 0 else plan

    def thinned(self, plan: Plan, room: int, *, block: int = 1) -> Plan:
        """The plan with at most so many vectors: `forgetting.remembered` says how many each segment keeps."""
        places = [
            (index, place)
            for index, share in enumerate(plan.shares)
            for place in range(len(share.lengths))
            if place not in share.expanded
        ]
        kept = remembered([plan.shares[index].lengths[place] for index, place in places], room, block=block)
        lengths = [list(share.lengths) for share in plan.shares]
        for (index, place), length in zip(places, kept, strict=True):
            lengths[index][place] = length
        shares = [Share(tuple(own), share.expanded) for own, share in zip(lengths, plan.shares, strict=True)]
        return self.planned(plan.call, plan.sources, shares, plan.token_ids)

    def num_wanted(self, wanted: int | None) -> int:
        """How many tokens to keep room for where a request asks for so many, or does not say."""
        return min(DEFAULT_MAX_TOKENS, self.window // 4) if wanted is None else wanted

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
        if self.room(plan.num_positions, 1) >= 1:
            return plan.call.tokens
        return "expand" if plan.expanded_tokens else plan.call.summaries

    async def assemble(self, plan: Plan) -> Prompt:
        """Fuse the summaries in order, compressing the texts among them."""
        (prompt,) = await self.assemble_many([plan])
        return prompt

    async def assemble_many(self, plans: Sequence[Plan]) -> list[Prompt]:
        """As `assemble`, of one tenant's plans; what is stored for all of them is read together."""
        if not plans:
            return []
        (tenant,) = {plan.call.tenant for plan in plans}
        sources = [source for plan in plans for source in plan.sources]
        shares = [share for plan in plans for share in plan.shares]
        gathered = iter(await self._gatherer.gather(sources, shares, tenant))
        self._metrics.tokens_saved.inc(sum(_saved(plan) for plan in plans))
        return [fused([next(gathered) for _ in plan.sources], plan.token_ids, plan.call.tenant) for plan in plans]

    async def gather(self, plan: Plan) -> list[Gathered]:
        """What the plan's sources condition with, in order, compressing what is not stored."""
        self._metrics.tokens_saved.inc(_saved(plan))
        return await self._gatherer.gather(plan.sources, plan.shares, plan.call.tenant)

    async def gather_whole(self, source: Source, tenant: Tenant) -> Gathered:
        """What one source conditions with where all of it is read."""
        (gathered,) = await self._gatherer.gather([source], [Share(self.counts(source))], tenant)
        return gathered

    async def _opened(self, call: Call, part: Part) -> list[SummaryPart | TextPart | Summary]:
        """A part as it is, or of a compaction item what it stands for."""
        if not isinstance(part, CompactionPart):
            return [part]
        summaries, items = await self._opener.opened(call.tenant, part.sealed, param=call.summaries)
        return [*summaries, TextPart(told(items))]

    async def _source(self, part: SummaryPart | TextPart | Summary, tenant: Tenant, param: str) -> Source:
        if isinstance(part, Summary):
            return part
        if isinstance(part, SummaryPart):
            return await self._summaries.of(tenant).get(part.summary_id, param=param)
        work = partial(self._model.tokenise, part.text, is_start=True, param=param)
        return tuple(await self._model.long_texts.in_thread(len(part.text), work))

    def _segment_tokens(self, source: Source) -> tuple[int, ...]:
        if isinstance(source, Summary):
            return source.manifest.segment_tokens
        return self._model.segment_lengths(len(source))

    def _described(self, plan: Plan) -> str:
        return (
            f"{plan.described_positions} and {len(plan.token_ids)} prompt tokens leave room for "
            f"{max(plan.room, 0)} tokens in {self._model.max_sequence_tokens} positions"
        )


def _saved(plan: Plan) -> int:
    """Document tokens that are not read, less what is read in their place."""
    return max(0, plan.summarised_tokens - plan.num_positions)
