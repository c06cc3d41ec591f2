"""Passages in the order of how likely a query is after each: log p(query | summary), summed over its tokens."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from server.core.documents.document import Document
from server.core.documents.intake import Intake
from server.core.documents.summaries import AllSummaries, Summary
from server.core.prompts.plan import Call, Plan
from server.core.prompts.prompting import Prompter
from server.core.receipts import Receipt, Stopwatch, Usage
from server.core.responses.opening import Opener
from server.core.responses.transcript import told
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.core.together import together
from server.engine.protocol import Decoder
from server.errors import InvalidRequest, ModelMismatch, ServiceError, SummaryNotFound

SEPARATOR = "\n"  # between passage and query; the model needs a token to predict the query's first from
READ_TOGETHER = 128  # passages whose vectors are in memory at a time


@dataclass(frozen=True)
class Passage:
    """A text and how long to keep its summary where it is new, None for the default; or the id of a stored one.

    `sealed`: or a conversation that was compacted, as its item has it. `held`: or a summary that is at hand.
    """

    text: str | None = None
    summary_id: str | None = None
    ttl_seconds: float | None = None
    sealed: str | None = None
    held: Summary | None = None


@dataclass(frozen=True)
class Read:
    """A passage as it is read: summaries, and tokens after them. `is_new`: they were computed for this."""

    summaries: tuple[Summary, ...]
    token_ids: tuple[int, ...] = ()
    is_new: bool = False

    @property
    def summary_id(self) -> str | None:
        """By which it is read again without its text; None of one that has no single summary in the store."""
        alone = self.summaries[0] if len(self.summaries) == 1 and not self.token_ids else None
        return None if alone is None or alone.carried else alone.id


@dataclass(frozen=True)
class Reranking:
    """Of each passage, in the order given, what was read of it and its score; of all, what reading them took.

    The usage counts separator and query as often as they were read.
    """

    passages: tuple[Read, ...]
    scores: tuple[float, ...]
    usage: Usage
    receipt: Receipt

    @property
    def order(self) -> list[int]:
        """Places of the passages, the best first; equal ones as they were given."""
        return sorted(range(len(self.scores)), key=lambda place: -self.scores[place])


class Reranker:
    """Scores a query after the summary of each passage."""

    def __init__(
        self,
        model: ServedModel,
        decoder: Decoder,
        summaries: AllSummaries,
        opener: Opener,
        prompter: Prompter,
        intake: Intake,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._summaries = summaries
        self._opener = opener
        self._prompter = prompter
        self._intake = intake

    async def rank(
        self,
        query: str,
        passages: Sequence[Passage],
        *,
        tenant: Tenant,
        watch: Stopwatch,
        max_vectors: int | None = None,
    ) -> Reranking:
        """Score every passage; texts are compressed first, and stored as /compress stores new ones.

        Args:
            max_vectors: of each passage, its most important ones; None for all that fit.

        Raises:
            InvalidRequest: a query or a passage of no tokens, or `max_vectors` of vectors without an order.
            TooLong: the query does not fit after a passage.
            SummaryNotFound, ModelMismatch: of a passage. And what the engine and the store raise.
        """
        separator = await asyncio.to_thread(self._model.tokenise, SEPARATOR, is_start=False)
        tokenise = partial(self._model.tokenise, query, is_start=False, parse_special=False, param="query")
        query_ids = await self._model.long_texts.in_thread(len(query), tokenise)
        if not query_ids:
            raise InvalidRequest("the query has 0 tokens", param="query")
        # refuses, before any work, what no summary would change
        self._prompter.plan_tokens(Call(tenant, "documents", "query"), (), separator, max_vectors=max_vectors)
        read = await self._read(passages, tenant)
        plans = []
        for place, passage in enumerate(read):
            call = Call(tenant, f"documents.{place}", "query")
            tokens = (*passage.token_ids, *separator)
            plan = self._prompter.plan_tokens(call, passage.summaries, tokens, max_vectors=max_vectors)
            plans.append(self._prompter.fitted(plan, len(query_ids)))
        for plan in plans:
            self._prompter.require_fits(plan, query_ids, param="query")
        scores: list[float] = []
        with watch.engine():
            for start in range(0, len(plans), READ_TOGETHER):
                scores += await self._scores(plans[start : start + READ_TOGETHER], query_ids, watch)
        num_passages = len(passages)
        usage = Usage(
            prompt_tokens=sum(len(plan.token_ids) for plan in plans),
            summary_vectors=sum(plan.num_vectors for plan in plans),
            thinned_vectors=sum(plan.thinned_vectors for plan in plans),
            summarised_tokens=sum(summary.tokens for passage in read for summary in passage.summaries),
            completion_tokens=num_passages * len(query_ids),
        )
        receipt = watch.receipt(
            saved=usage.summarised_tokens - usage.summary_vectors,
            cache=watch.tier(usage.summary_vectors, is_computed=any(passage.is_new for passage in read)),
            thinned=usage.thinned_vectors,
        )
        return Reranking(tuple(read), tuple(scores), usage, receipt)

    async def _read(self, passages: Sequence[Passage], tenant: Tenant) -> list[Read]:
        """Each passage as it is to be read; texts are compressed."""
        stored = await self._stored(passages, tenant)
        opened = {
            place: await self._opened(place, passage.sealed, tenant)
            for place, passage in enumerate(passages)
            if passage.sealed is not None
        }
        opened |= {place: Read((each.held,)) for place, each in enumerate(passages) if each.held is not None}
        places = [place for place, each in enumerate(passages) if each.summary_id is None and place not in opened]
        for place in places:
            if not passages[place].text:
                raise InvalidRequest(f"documents.{place} is empty", param=f"documents.{place}")
        made = await together(
            [partial(self._compress, place, passages[place], tenant) for place in places],
            limit=self._intake.max_together,
        )
        read = opened | dict(zip(places, made, strict=True))
        return [
            read[place] if passage.summary_id is None else Read((stored[passage.summary_id],))
            for place, passage in enumerate(passages)
        ]

    async def _opened(self, place: int, sealed: str, tenant: Tenant) -> Read:
        summaries, items = await self._opener.opened(tenant, sealed, param=f"documents.{place}")
        text = told(items)
        token_ids = await asyncio.to_thread(
            self._model.tokenise, text, is_start=not summaries, parse_special=False, param=f"documents.{place}"
        )
        return Read(tuple(summaries), tuple(token_ids))

    async def _stored(self, passages: Sequence[Passage], tenant: Tenant) -> dict[str, Summary]:
        """The stored ones by id, in one call to the store; one by one where one is no good, to name its place."""
        places = {passage.summary_id: place for place, passage in enumerate(passages) if passage.summary_id is not None}
        summaries = self._summaries.of(tenant)
        try:
            return dict(zip(places, await summaries.get_many(list(places), param="documents"), strict=True))
        except (SummaryNotFound, ModelMismatch):
            for summary_id, place in places.items():
                await summaries.get(summary_id, param=f"documents.{place}")
            raise

    async def _compress(self, place: int, passage: Passage, tenant: Tenant) -> Read:
        try:
            document = Document(
                tenant=tenant, text=passage.text, ttl_seconds=passage.ttl_seconds, renews=False, waits=True
            )
            done = await self._intake.one(document)
        except ServiceError as error:
            error.param = f"documents.{place}"
            raise
        return Read((done.summary,), is_new=done.is_new)

    async def _scores(self, plans: Sequence[Plan], query_ids: Sequence[int], watch: Stopwatch) -> list[float]:
        prompts = await self._prompter.assemble_many(plans)
        scoring = [
            partial(self._decoder.score, prompt, [query_ids], meter=watch.meter, waits=True) for prompt in prompts
        ]
        results = await together(scoring, limit=self._intake.max_together)
        return [result.total for (result,) in results]
