"""A response on its way: the conversation read, compacted where that is wanted, and made a prompt."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.core.documents.summaries import Summary
from server.core.prompts.chat_template import Rendered, rendered_in_thread
from server.core.prompts.expansion import Expander
from server.core.prompts.gathering import Share
from server.core.prompts.plan import Call, Plan
from server.core.prompts.prepared import Prepared, Preparer
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Fitted, Wish
from server.core.receipts import Stopwatch
from server.core.responses.compacted import Cost
from server.core.responses.compacting import Compactor, kept_for_reply
from server.core.responses.items import Compaction, Item, ToolCall, ToolOutput
from server.core.responses.opening import Context, Opener
from server.core.responses.records import Conversation
from server.core.responses.transcript import question, said
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.errors import InvalidRequest

EXPANDED_SHARE = 16  # of the window, the part that segments take that are read as text where a request does not say
FEW_SHARE = 8  # of the threshold, the part that vectors take beside such text
OUTPUT_SHARE = 4  # of the window, the part that an answer takes at most where a request does not say
THINNED_BLOCKS = 4  # of the room for vectors: what older segments keep changes that often


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a response is asked for.

    Attributes:
        items: new ones, after those of the `conversation`.
        max_output_tokens: None is a quarter of the window, or what is left of it.
        truncates: what exceeds the window is compressed; else it is refused.
        threshold: of how many positions on the conversation is compacted; None for never.
        is_stored: what is compacted goes into the store, else into the item.
        expanded_segments: how many segments to read as text; None is as many as a sixteenth of the window takes.
        max_vectors: of each summary; None is as many as there is room for.
        tools: definitions for the chat template.
    """

    tenant: Tenant
    items: tuple[Item, ...]
    conversation: Conversation = field(default_factory=Conversation)
    instructions: str | None = None
    max_output_tokens: int | None = None
    truncates: bool = False
    threshold: int | None = None
    is_stored: bool = True
    expanded_segments: int | None = None
    max_vectors: int | None = None
    tools: tuple[dict[str, object], ...] = ()

    @property
    def all_items(self) -> tuple[Item, ...]:
        return (*self.conversation.items, *self.items)

    @property
    def is_endless(self) -> bool:
        """Whether it is never too long: what exceeds the window is compressed or compacted."""
        return self.truncates or self.threshold is not None


@dataclass(frozen=True)
class Ready:
    """A prompt to answer.

    Attributes:
        compaction: the item that was made on the way, and what it took to make it.
        given_positions: those of the prompt that stand for what was compacted before.
    """

    prepared: Prepared
    max_tokens: int
    stop: tuple[str, ...]
    gap: str
    compaction: tuple[Compaction, Cost] | None
    given_positions: int

    @property
    def input_tokens(self) -> int:
        """Positions of summaries, and all tokens of texts."""
        return self.given_positions + len(self.prepared.token_ids)

    def cached_tokens(self, watch: Stopwatch) -> int:
        """Of those, what was not computed for this response."""
        known = min(watch.meter.known_positions, self.given_positions) + watch.meter.known_tokens
        return self.prepared.cached_tokens + known


class Responder:
    """Makes conversations prompts."""

    def __init__(
        self,
        model: ServedModel,
        opener: Opener,
        compactor: Compactor,
        prompter: Prompter,
        preparer: Preparer,
        expander: Expander,
        *,
        ttl_seconds: float | None,
    ) -> None:
        self._model = model
        self._opener = opener
        self._compactor = compactor
        self._prompter = prompter
        self._preparer = preparer
        self._expander = expander
        self._ttl_seconds = ttl_seconds

    async def ready(self, ask: Ask, watch: Stopwatch) -> Ready:
        """What is to be generated from.

        Raises:
            InvalidRequest, TooLong, ModelMismatch, CompactionExpired: of the conversation. And what the engine and the
                store raise.
        """
        require_known_calls(ask.all_items)
        context = await self._opener.context(ask.tenant, ask.all_items, param="input")
        plan, rendered = await self._plan(ask, context, is_bounded=not ask.is_endless)
        compaction = None
        if ask.threshold is not None and plan.num_positions + len(plan.token_ids) > ask.threshold:
            compaction = await self._compacted(ask, context, watch)
            if compaction is not None:
                context = await self._opener.context(ask.tenant, [compaction[0]], param="input")
                plan, rendered = await self._plan(ask, context)
        if ask.is_stored:
            await self._opener.touch(ask.tenant, context.compacted, ttl_seconds=self._ttl_seconds)
        fitted = await self._fitted(ask, plan, context)
        prepared = await self._preparer.prepare(plan, fitted)
        given = sum(sum(share.lengths) for share in fitted.plan.shares[: fitted.num_given])
        return Ready(prepared, fitted.max_tokens, rendered.stop, rendered.gap, compaction, given)

    async def count(self, ask: Ask) -> int:
        """How many input tokens a response would have, if nothing was compacted on the way."""
        context = await self._opener.context(ask.tenant, ask.all_items, param="input")
        plan, _ = await self._plan(ask, context)
        return plan.num_positions + len(plan.token_ids)

    async def compact(
        self, tenant: Tenant, items: Sequence[Item], *, is_stored: bool, watch: Stopwatch
    ) -> tuple[Compaction, Cost]:
        """All of a conversation as one item.

        Raises:
            InvalidRequest: there is nothing to compact. And as `Opener.context` and `Compactor.compact`.
        """
        require_known_calls(items)
        context = await self._opener.context(tenant, items, param="input")
        if not context.conversation and not context.compacted.parts:
            raise InvalidRequest("there is no message, call or output to compact", param="input")
        return await self._sealed(tenant, context, 0, is_stored, watch)

    async def _compacted(self, ask: Ask, context: Context, watch: Stopwatch) -> tuple[Compaction, Cost] | None:
        """What stands for all but what was asked last; None where there is nothing else."""
        kept = kept_for_reply(context.conversation)
        if kept == len(context.conversation):
            return None
        return await self._sealed(ask.tenant, context, kept, ask.is_stored, watch)

    async def _sealed(
        self, tenant: Tenant, context: Context, num_kept: int, is_stored: bool, watch: Stopwatch
    ) -> tuple[Compaction, Cost]:
        with watch.engine():
            sealed, cost = await self._compactor.compact(
                tenant,
                context,
                num_kept=num_kept,
                is_stored=is_stored,
                ttl_seconds=self._ttl_seconds,
                param="input",
                meter=watch.meter,
            )
        return Compaction(f"cmp_{uuid.uuid4().hex}", sealed), cost

    async def _plan(self, ask: Ask, context: Context, *, is_bounded: bool = False) -> tuple[Plan, Rendered]:
        """The prompt; where it is bounded TooLong if a long one's beginning alone exceeds the window."""
        messages = said([*context.instructions, *context.conversation], ask.instructions)
        if not messages:
            raise InvalidRequest("there is nothing to answer: give a message after the compaction item", param="input")
        most = self._prompter.window if is_bounded else None
        rendered = await rendered_in_thread(self._model, messages, tools=ask.tools, param="input", most=most)
        sources = await self._opener.sources(ask.tenant, context.compacted, param="input")
        call = Call(ask.tenant, "input", "input")
        plan = self._prompter.plan_tokens(call, tuple(sources), rendered.token_ids, max_vectors=ask.max_vectors)
        return self._within(plan, self._room(ask, plan)), rendered

    def _room(self, ask: Ask, plan: Plan) -> int:
        """How many vectors of a compacted conversation are read at most: few beside text that a question brings back.

        A small model that has both is misled by many (docs/experiments.md, a name from the first turn).
        """
        share, of_threshold = (EXPANDED_SHARE, FEW_SHARE) if self._reads_text(ask, plan) else (2, 2)
        room = self._prompter.window // share
        return room if ask.threshold is None else max(1, min(room, ask.threshold // of_threshold))

    def _within(self, plan: Plan, room: int) -> Plan:
        """The plan with no more vectors: the less important ones are left out, or without an order the oldest."""
        if plan.num_positions <= room:
            return plan
        if self._model.is_ordered:
            block = max(1, room // self._model.config.summary_length // THINNED_BLOCKS)
            return self._prompter.thinned(plan, room, block=block)
        excess, shares = plan.num_positions - room, []
        for index, share in enumerate(plan.shares):
            lengths = list(share.lengths)
            for place in range(len(lengths) - (index == len(plan.shares) - 1)):  # the newest stays
                if excess > 0:
                    excess -= lengths[place]
                    lengths[place] = 0
            shares.append(Share(tuple(lengths)))
        return self._prompter.planned(plan.call, plan.sources, shares, plan.token_ids)

    async def _fitted(self, ask: Ask, plan: Plan, context: Context) -> Fitted:
        num_expanded = self._num_expanded(ask, plan)
        most = self._prompter.window // OUTPUT_SHARE
        if not ask.is_endless:
            most = max(1, min(most, plan.room - num_expanded * self._model.config.segment_length))
        wish = Wish(
            most if ask.max_output_tokens is None else ask.max_output_tokens,
            "compress" if ask.is_endless else "error",
            expanded_segments=num_expanded,
            max_vectors=ask.max_vectors,
            refusal="`truncation` is 'disabled'",
        )
        return await self._preparer.fit(plan, wish, query=question(context.conversation))

    def _num_expanded(self, ask: Ask, plan: Plan) -> int:
        """As many segments as are asked for, else as many as leave room for an answer."""
        if ask.expanded_segments is not None:
            return ask.expanded_segments
        if not self._reads_text(ask, plan):
            return 0
        length = self._model.config.segment_length
        left = plan.room - (ask.max_output_tokens or self._prompter.window // OUTPUT_SHARE)
        return max(0, min(self._prompter.window // EXPANDED_SHARE, left) // length)

    def _reads_text(self, ask: Ask, plan: Plan) -> bool:
        """Whether segments of what was compacted are read as text again."""
        if ask.expanded_segments is not None:
            return ask.expanded_segments > 0
        sources = [source for source in plan.sources if isinstance(source, Summary)]
        has_text = all(source.manifest.has_text for source in sources)
        return bool(sources) and has_text and self._expander.is_possible


def require_known_calls(items: Sequence[Item]) -> None:
    """Refuse the output of a call that nobody made; what was compacted may have had it."""
    known: set[str] = set()
    for item in items:
        if isinstance(item, ToolCall):
            known.add(item.call_id)
        elif isinstance(item, Compaction):
            return
        elif isinstance(item, ToolOutput) and item.call_id not in known:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {item.call_id!r}", param="input"
            )
