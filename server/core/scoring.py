"""How likely texts are, after a prompt that is conditioned on stored summaries or after other texts."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from server.core.prompts.expansion import Expander
from server.core.prompts.plan import Call, Condition, Plan
from server.core.prompts.prompting import Prompter
from server.core.receipts import Receipt, Stopwatch, Usage
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.core.together import together
from server.core.words import Words
from server.engine.protocol import Decoder, Prompt, TokenLogprobs


@dataclass(frozen=True)
class Scored:
    """Log-probabilities in the order of what was to be scored, tokens as `Words` shows them, and what they cost."""

    results: Sequence[TokenLogprobs]
    tokens: Sequence[tuple[str, ...]]
    usage: Usage
    receipt: Receipt


class Scorer:
    """Scores continuations of one prompt, or pairs of texts, at most `max_together` at a time."""

    def __init__(
        self, model: ServedModel, decoder: Decoder, prompter: Prompter, expander: Expander, *, max_together: int
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._prompter = prompter
        self._expander = expander
        self._max_together = max_together

    async def score(
        self, call: Call, condition: Condition, continuations: Sequence[str], watch: Stopwatch | None = None
    ) -> Scored:
        """Of each continuation after the prompt; they are tokenised apart from it.

        Raises:
            InvalidRequest, TooLong, SummaryNotFound: of the prompt, or of a continuation. And what the engine and the
                store raise.
        """
        watch = watch or Stopwatch()
        plan = await self._prompter.plan(call, condition.parts, max_vectors=condition.max_vectors, is_bounded=True)
        continuation_ids = await asyncio.to_thread(
            lambda: [
                self._model.tokenise_within(text, is_start=False, param=f"continuations.{index}")
                for index, text in enumerate(continuations)
            ]
        )
        plan = await self._expander.conditioned(plan, condition)
        plan = self._prompter.fitted(plan, max(map(len, continuation_ids)))
        for index, continuation in enumerate(continuation_ids):
            self._prompter.require_fits(plan, continuation, param=f"continuations.{index}")
        prompt = await self._prompter.assemble(plan)
        with watch.engine():
            results = await self._decoder.score(prompt, continuation_ids, meter=watch.meter)
        usage = plan.usage(sum(map(len, continuation_ids)))
        return Scored(results, await asyncio.to_thread(self._tokens, results), usage, plan.receipt(watch))

    async def score_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        tenant: Tenant,
        names: Callable[[int], tuple[str, str]],
        watch: Stopwatch | None = None,
    ) -> Scored:
        """Of each pair the second text after the first; a first that several have is read once.

        Args:
            names: the fields that the pair at a place came from, for errors.

        Raises:
            InvalidRequest, TooLong: of a text. And what the engine raises.
        """
        watch = watch or Stopwatch()
        places: dict[str, list[int]] = {}
        for place, (first, _) in enumerate(pairs):
            places.setdefault(first, []).append(place)
        plans, work = list[Plan](), []
        for first, own in places.items():
            call = Call(tenant, tokens=names(own[0])[0])
            tokenise = partial(self._model.tokenise, first, is_start=True, param=call.tokens)
            first_ids = await self._model.long_texts.in_thread(len(first), tokenise)
            plan = self._prompter.plan_tokens(call, (), first_ids)
            seconds = [
                await asyncio.to_thread(self._model.tokenise, pairs[place][1], is_start=False, param=names(place)[1])
                for place in own
            ]
            for place, second in zip(own, seconds, strict=True):
                self._prompter.require_fits(plan, second, param=names(place)[1])
            plans.append(plan)
            prompt = Prompt(None, plan.token_ids)
            work.append(partial(self._decoder.score, prompt, seconds, meter=watch.meter, waits=True))
        with watch.engine():
            scored = await together(work, limit=self._max_together)
        results = {
            place: result
            for own, group in zip(places.values(), scored, strict=True)
            for place, result in zip(own, group, strict=True)
        }
        usage = Usage(
            prompt_tokens=sum(len(plan.token_ids) for plan in plans),
            completion_tokens=sum(len(result.token_ids) for result in results.values()),
        )
        ordered = [results[place] for place in range(len(pairs))]
        tokens = await asyncio.to_thread(self._tokens, ordered)
        return Scored(ordered, tokens, usage, watch.receipt(saved=0, cache=None))

    def _tokens(self, results: Sequence[TokenLogprobs]) -> list[tuple[str, ...]]:
        words = Words(self._model.tokenizer)
        return [tuple(map(words.text, result.token_ids)) for result in results]
