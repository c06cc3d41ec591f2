"""Passages in the order of how likely a query is after each: log p(query | summary), summed over its tokens."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from server.core.documents.document import Document
from server.core.documents.intake import Intake
from server.core.documents.summaries import Summaries, Summary
from server.core.prompts.plan import Call, Plan
from server.core.prompts.prompting import Prompter
from server.core.receipts import Receipt, Stopwatch, Usage
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.core.together import together
from server.engine.protocol import Decoder
from server.errors import InvalidRequest, ModelMismatch, ServiceError, SummaryNotFound

SEPARATOR = "\n"  # between passage and query; the model needs a token to predict the query's first from
READ_TOGETHER = 128  # passages whose vectors are in memory at a time


@dataclass(frozen=True)
class Passage:
    """A text and how long to keep its summary where it is new, None for the default; or the id of a stored one."""

    text: str | None = None
    summary_id: str | None = None
    ttl_seconds: float | None = None


@dataclass(frozen=True)
class Reranking:
    """Of each passage, in the order given, its summary and its score; of all, what reading them took.

    The usage counts separator and query as often as they were read.
    """

    summaries: tuple[Summary, ...]
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
        summaries: Summaries,
        prompter: Prompter,
        intake: Intake,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._summaries = summaries
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
        query_ids = await asyncio.to_thread(
            self._model.tokenise, query, is_start=False, parse_special=False, param="query"
        )
        if not query_ids:
            raise InvalidRequest("the query has 0 tokens", param="query")
        # refuses, before any work, what no summary would change
        self._prompter.plan_tokens(Call(tenant, "documents", "query"), (), separator, max_vectors=max_vectors)
        summaries, is_computed = await self._summaries_of(passages, tenant)
        plans = []
        for place, summary in enumerate(summaries):
            call = Call(tenant, f"documents.{place}", "query")
            plan = self._prompter.plan_tokens(call, (summary,), separator, max_vectors=max_vectors)
            plans.append(self._prompter.fitted(plan, len(query_ids)))
        for plan in plans:
            self._prompter.require_fits(plan, query_ids, param="query")
        scores: list[float] = []
        with watch.engine():
            for start in range(0, len(plans), READ_TOGETHER):
                scores += await self._scores(plans[start : start + READ_TOGETHER], query_ids, watch)
        num_passages = len(passages)
        usage = Usage(
            prompt_tokens=num_passages * len(separator),
            summary_vectors=sum(plan.num_vectors for plan in plans),
            thinned_vectors=sum(plan.thinned_vectors for plan in plans),
            summarised_tokens=sum(summary.tokens for summary in summaries),
            completion_tokens=num_passages * len(query_ids),
        )
        receipt = watch.receipt(
            saved=usage.summarised_tokens - usage.summary_vectors,
            cache=watch.tier(usage.summary_vectors, is_computed=is_computed),
            thinned=usage.thinned_vectors,
        )
        return Reranking(tuple(summaries), tuple(scores), usage, receipt)

    async def _summaries_of(self, passages: Sequence[Passage], tenant: Tenant) -> tuple[list[Summary], bool]:
        """The summary of each passage, and whether one had to be computed."""
        stored = await self._stored(passages)
        places = [place for place, passage in enumerate(passages) if passage.summary_id is None]
        for place in places:
            if not passages[place].text:
                raise InvalidRequest(f"documents.{place} is empty", param=f"documents.{place}")
        made = await together(
            [partial(self._compress, place, passages[place], tenant) for place in places],
            limit=self._intake.max_together,
        )
        compressed = dict(zip(places, made, strict=True))
        summaries = [
            compressed[place][0] if passage.summary_id is None else stored[passage.summary_id]
            for place, passage in enumerate(passages)
        ]
        return summaries, any(is_new for _, is_new in made)

    async def _stored(self, passages: Sequence[Passage]) -> dict[str, Summary]:
        """The stored ones by id, in one call to the store; one by one where one is no good, to name its place."""
        places = {passage.summary_id: place for place, passage in enumerate(passages) if passage.summary_id is not None}
        try:
            return dict(zip(places, await self._summaries.get_many(list(places), param="documents"), strict=True))
        except (SummaryNotFound, ModelMismatch):
            for summary_id, place in places.items():
                await self._summaries.get(summary_id, param=f"documents.{place}")
            raise

    async def _compress(self, place: int, passage: Passage, tenant: Tenant) -> tuple[Summary, bool]:
        try:
            document = Document(
                tenant=tenant, text=passage.text, ttl_seconds=passage.ttl_seconds, renews=False, waits=True
            )
            done = await self._intake.one(document)
        except ServiceError as error:
            error.param = f"documents.{place}"
            raise
        return done.summary, done.is_new

    async def _scores(self, plans: Sequence[Plan], query_ids: Sequence[int], watch: Stopwatch) -> list[float]:
        prompts = await self._prompter.assemble_many(plans)
        scoring = [
            partial(self._decoder.score, prompt, [query_ids], meter=watch.meter, waits=True) for prompt in prompts
        ]
        results = await together(scoring, limit=self._intake.max_together)
        return [result.total for (result,) in results]
