"""Generate and score, conditioned on stored summaries."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.core.patience import patiently
from server.core.prompts.prompting import Fields, Part, Plan, SummaryPart, TextPart
from server.core.services import Services
from server.core.together import together
from server.engine.protocol import Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.errors import InvalidRequest
from server.http.answers import sse
from server.http.answers.receipts import Stopwatch
from server.http.answers.sampling import sampling_params
from server.http.answers.summaries import With, errors, num_expanded
from server.http.answers.waiting import unless_disconnected
from server.http.schemas import native as schemas
from server.http.schemas.receipts import Receipt

router = APIRouter(responses=errors())


@router.post(
    "/generate",
    response_model=schemas.GenerateResponse,
    responses={200: {"content": sse.CONTENT}},
    tags=["generation"],
)
async def generate(body: schemas.GenerateRequest, request: Request, response: Response, served: With) -> Any:
    """Continue a prompt, conditioned on stored summaries.

    With `stream`, server-sent events: a chunk for each piece of text, the last with usage, then `[DONE]`.
    """
    served.model.require_name(body.model)
    watch = Stopwatch()
    plan = await served.prompter.plan(_parts(body), _fields(body), max_vectors=body.max_vectors)
    plan = await _expanded(plan, body, served)
    plan = served.prompter.fitted(plan, served.prompter.num_wanted(body.max_tokens))
    params = sampling_params(body, max_tokens=served.prompter.max_tokens(plan, body.max_tokens))
    prompt = await unless_disconnected(request, served.prompter.assemble(plan))
    generation = _Generation(served, plan, prompt, params, watch)
    if not body.stream:
        whole = await unless_disconnected(request, generation.whole())
        response.headers.update(watch.headers())
        return whole
    stream = await sse.streamed(request, generation.chunks())
    watch.engine_seconds = time.monotonic() - generation.started
    stream.headers.update(watch.headers())
    return stream


@router.post("/score", tags=["generation"])
async def score(
    body: schemas.ScoreRequest, request: Request, response: Response, served: With
) -> schemas.ScoreResponse | schemas.PairScoreResponse:
    """Log-probabilities of continuations after a prompt, conditioned on stored summaries.

    Prompt and continuations are tokenised apart; a continuation of whole words usually begins with a space.
    In vLLM's form, the score of each pair is the mean log-probability of the tokens of `text_2` after `text_1`.
    """
    served.model.require_name(body.model)
    watch = Stopwatch()
    answer: schemas.ScoreResponse | schemas.PairScoreResponse
    if body.pairs:
        answer = await unless_disconnected(request, _scored_pairs(body, served, watch))
    else:
        answer = await unless_disconnected(request, _scored(body, served, watch))
    response.headers.update(watch.headers())
    return answer


async def _scored(body: schemas.ScoreRequest, served: Services, watch: Stopwatch) -> schemas.ScoreResponse:
    plan = await served.prompter.plan(_parts(body), _fields(body), max_vectors=body.max_vectors)
    continuations = await asyncio.to_thread(
        lambda: [served.model.tokenise(text, is_start=False) for text in body.continuations or []]
    )
    plan = await _expanded(plan, body, served)
    plan = served.prompter.fitted(plan, max(map(len, continuations)))
    for index, continuation in enumerate(continuations):
        served.prompter.require_fits(plan, continuation, param=f"continuations.{index}")
    prompt = await served.prompter.assemble(plan)
    started = time.monotonic()
    results = await served.engine.score(prompt, continuations, meter=watch.meter)
    watch.add_engine(started)
    scores = await asyncio.to_thread(_scores, results, served)
    num_scored = sum(len(continuation) for continuation in continuations)
    return schemas.ScoreResponse(
        model=served.model.name, scores=scores, usage=_usage(plan, num_scored), receipt=watch.receipt_of(plan)
    )


async def _scored_pairs(body: schemas.ScoreRequest, served: Services, watch: Stopwatch) -> schemas.PairScoreResponse:
    """Score what follows each text; one that several follow is read once."""
    pairs = body.pairs
    places: dict[str, list[int]] = {}
    for place, (first, _) in enumerate(pairs):
        places.setdefault(first, []).append(place)
    plans, work = {}, []
    for first, own in places.items():
        first_ids = await asyncio.to_thread(served.model.tokenise, first, is_start=True)
        fields = Fields(tokens=_place("text_1", body.text_1, own[0]))
        plan = plans[first] = served.prompter.plan_tokens((), first_ids, fields)
        seconds = [await asyncio.to_thread(served.model.tokenise, pairs[place][1], is_start=False) for place in own]
        for place, second in zip(own, seconds, strict=True):
            served.prompter.require_fits(plan, second, param=_place("text_2", body.text_2, place))
        work.append(partial(served.engine.score, Prompt(None, plan.token_ids), seconds, meter=watch.meter))
    started = time.monotonic()
    scored = await together([partial(patiently, one) for one in work], limit=served.intake.max_together)
    watch.add_engine(started)
    results = {
        place: result
        for own, group in zip(places.values(), scored, strict=True)
        for place, result in zip(own, group, strict=True)
    }
    num_read = sum(len(plan.token_ids) for plan in plans.values())
    num_scored = sum(len(result.token_ids) for result in results.values())
    return schemas.PairScoreResponse(
        id=f"score-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=served.model.name,
        data=[
            schemas.PairScore(index=place, score=sum(results[place].logprobs) / len(results[place].logprobs))
            for place in range(len(pairs))
        ],
        usage=schemas.Usage(
            prompt_tokens=num_read,
            summary_vectors=0,
            thinned_vectors=0,
            summarised_tokens=0,
            completion_tokens=num_scored,
            total_tokens=num_read + num_scored,
        ),
        receipt=watch.receipt(saved=0, cache=None),
    )


def _scores(results: list[TokenLogprobs], served: Services) -> list[schemas.Score]:
    return [
        schemas.Score(
            index=index,
            logprob=sum(result.logprobs),
            tokens=[served.model.tokenizer.decode([token_id]) for token_id in result.token_ids],
            token_ids=list(result.token_ids),
            token_logprobs=list(result.logprobs),
        )
        for index, result in enumerate(results)
    ]


class _Generation:
    """One generation on its way to the client, whole or in chunks."""

    def __init__(self, served: Services, plan: Plan, prompt: Prompt, params: SamplingParams, watch: Stopwatch) -> None:
        self._served = served
        self._plan = plan
        self._prompt = prompt
        self._params = params
        self._id = f"gen-{uuid.uuid4().hex}"
        self._watch = watch
        self.started = time.monotonic()
        self._first_token_seconds = 0.0
        self._num_generated = 0

    async def whole(self) -> schemas.GenerateResponse:
        texts = []
        async for event in self._events():
            texts.append(event.text)
            reason = event.finish_reason
        assert reason is not None
        return schemas.GenerateResponse(
            id=self._id,
            model=self._served.model.name,
            text="".join(texts),
            finish_reason=reason,
            usage=_usage(self._plan, self._num_generated),
            timings=self._timings(),
            receipt=self._receipt(),
        )

    async def chunks(self) -> AsyncGenerator[str]:
        """A chunk as JSON for each token that made text certain, and one for the end."""
        async for event in self._events():
            chunk = schemas.GenerateChunk(id=self._id, model=self._served.model.name, text=event.text)
            if event.finish_reason is not None:
                chunk.finish_reason = event.finish_reason
                chunk.usage = _usage(self._plan, self._num_generated)
                chunk.timings = self._timings()
                chunk.receipt = self._receipt()
            if event.text or event.finish_reason is not None:
                yield chunk.model_dump_json(exclude_none=True)

    async def _events(self) -> AsyncIterator[TokenEvent]:
        async with aclosing(
            self._served.engine.generate(self._prompt, self._params, meter=self._watch.meter)
        ) as events:
            async for event in events:
                if not self._num_generated:
                    self._first_token_seconds = time.monotonic() - self.started
                self._num_generated += 1
                yield event

    def _timings(self) -> schemas.GenerateTimings:
        return schemas.GenerateTimings(
            time_to_first_token_seconds=self._first_token_seconds, total_seconds=time.monotonic() - self.started
        )

    def _receipt(self) -> Receipt:
        self._watch.engine_seconds = time.monotonic() - self.started
        return self._watch.receipt_of(self._plan)


def _parts(body: schemas.Conditioned) -> list[Part]:
    return [
        TextPart(part.text or "") if part.summary_id is None else SummaryPart(part.summary_id) for part in body.parts
    ]


async def _expanded(plan: Plan, body: schemas.Conditioned, served: Services) -> Plan:
    """The plan with the segments as text that the request wants; InvalidRequest where it has no summary."""
    if body.expand is not None and not plan.sources:
        raise InvalidRequest("there is no summary whose segments could be expanded", param="expand")
    return await served.expander.expanded(plan, num_expanded(body.expand))


def _fields(body: schemas.Conditioned) -> Fields:
    return Fields() if body.context is None else Fields("context", "context")


def _place(name: str, given: str | list[str] | None, place: int) -> str:
    """Where the text of a pair stands in the field `name`, which may have one for all."""
    return f"{name}.{place if len(given) > 1 else 0}" if isinstance(given, list) else name


def _usage(plan: Plan, num_completion_tokens: int) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=len(plan.token_ids) + plan.expanded_tokens,
        summary_vectors=plan.num_vectors,
        thinned_vectors=plan.thinned_vectors,
        summarised_tokens=plan.summarised_tokens - plan.expanded_tokens,
        completion_tokens=num_completion_tokens,
        total_tokens=len(plan.token_ids) + plan.num_positions + num_completion_tokens,
    )
