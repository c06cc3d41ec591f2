"""Compress, generate, score, and the summaries themselves."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import StreamingResponse

from server import schemas
from server.compression import Compressed
from server.engine.protocol import Prompt, SamplingParams, TokenEvent, TokenLogprobs
from server.errors import ServiceError
from server.prompting import Part, Plan, SummaryPart, TextPart
from server.routes.waiting import unless_disconnected
from server.services import Services, services
from server.summaries import Summary

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse} for status in (400, 404, 409, 413, 422, 424, 429, 503, 507)
}
router = APIRouter(responses=ERRORS)
With = Annotated[Services, Depends(services)]
IdInPath = Annotated[str, Path(description="A summary's id, as /compress gave it.")]


@router.post(
    "/compress",
    status_code=201,
    responses={200: {"model": schemas.CompressResponse, "description": "The summary was there already."}},
    tags=["summaries"],
)
async def compress(
    body: schemas.CompressRequest, request: Request, response: Response, served: With
) -> schemas.CompressResponse:
    """Compress a document into summary vectors, store them, and return their id.

    The id is a hash of the model and the document: the same text gives the same id, and is computed once.
    """
    started = time.monotonic()
    token_ids = await _document(body, served)
    tokenised = time.monotonic()
    ttl_seconds = served.settings.default_ttl_seconds if body.ttl_seconds is None else body.ttl_seconds
    done = await unless_disconnected(
        request,
        served.compressor.compress(token_ids, parent_id=body.parent, ttl_seconds=ttl_seconds, metadata=body.metadata),
    )
    response.status_code = 201 if done.is_new else 200
    return _compressed(done, served, tokenize_seconds=tokenised - started)


@router.get("/summaries/{summary_id}", tags=["summaries"])
async def get_summary(summary_id: IdInPath, served: With) -> schemas.StoredSummaryResponse:
    """Describe a stored summary."""
    summary = await served.summaries.get(summary_id, param="id")
    return schemas.StoredSummaryResponse(
        **_described(summary, served),
        segment_tokens=list(summary.manifest.segment_tokens),
        expires_in_seconds=await served.summaries.seconds_to_live(summary.id),
    )


@router.delete("/summaries/{summary_id}", tags=["summaries"])
async def delete_summary(summary_id: IdInPath, served: With) -> schemas.DeletedResponse:
    """Delete a summary. Segments that other summaries share stay."""
    await served.summaries.delete(summary_id)
    return schemas.DeletedResponse(id=summary_id)


@router.post(
    "/generate",
    response_model=schemas.GenerateResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    tags=["generation"],
)
async def generate(body: schemas.GenerateRequest, request: Request, served: With) -> Any:
    """Continue a prompt, conditioned on stored summaries.

    With `stream`, server-sent events: a chunk for each piece of text, the last with usage, then `[DONE]`.
    """
    plan = await served.prompter.plan(_parts(body))
    params = SamplingParams(
        max_tokens=served.prompter.max_tokens(plan, body.max_tokens),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=body.stops,
    )
    prompt = await unless_disconnected(request, served.prompter.assemble(plan))
    generation = _Generation(served, plan, prompt, params)
    if not body.stream:
        return await unless_disconnected(request, generation.whole())
    chunks = generation.chunks()
    # the first chunk is awaited here, so that a refusal is still a status and not an event
    first = await unless_disconnected(request, anext(chunks))
    return StreamingResponse(_events(first, chunks), media_type="text/event-stream")


@router.post("/score", tags=["generation"])
async def score(body: schemas.ScoreRequest, request: Request, served: With) -> schemas.ScoreResponse:
    """Log-probabilities of continuations after a prompt, conditioned on stored summaries.

    Prompt and continuations are tokenised apart; a continuation of whole words usually begins with a space.
    """
    plan = await served.prompter.plan(_parts(body))
    continuations = await asyncio.to_thread(
        lambda: [served.model.tokenise(text, is_start=False) for text in body.continuations]
    )
    for index, continuation in enumerate(continuations):
        served.prompter.require_fits(plan, continuation, param=f"continuations.{index}")
    prompt = await unless_disconnected(request, served.prompter.assemble(plan))
    results = await unless_disconnected(request, served.engine.score(prompt, continuations))
    scores = await asyncio.to_thread(_scores, results, served)
    num_scored = sum(len(continuation) for continuation in continuations)
    return schemas.ScoreResponse(model=served.model.name, scores=scores, usage=_usage(plan, num_scored))


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

    def __init__(self, served: Services, plan: Plan, prompt: Prompt, params: SamplingParams) -> None:
        self._served = served
        self._plan = plan
        self._prompt = prompt
        self._params = params
        self._id = f"gen-{uuid.uuid4().hex}"
        self._started = time.monotonic()
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
        )

    async def chunks(self) -> AsyncGenerator[schemas.GenerateChunk]:
        """A chunk for each token that made text certain, and one for the end."""
        async for event in self._events():
            chunk = schemas.GenerateChunk(id=self._id, model=self._served.model.name, text=event.text)
            if event.finish_reason is not None:
                chunk.finish_reason = event.finish_reason
                chunk.usage = _usage(self._plan, self._num_generated)
                chunk.timings = self._timings()
            if event.text or event.finish_reason is not None:
                yield chunk

    async def _events(self) -> AsyncIterator[TokenEvent]:
        async with aclosing(self._served.engine.generate(self._prompt, self._params)) as events:
            async for event in events:
                if not self._num_generated:
                    self._first_token_seconds = time.monotonic() - self._started
                self._num_generated += 1
                yield event

    def _timings(self) -> schemas.GenerateTimings:
        return schemas.GenerateTimings(
            time_to_first_token_seconds=self._first_token_seconds, total_seconds=time.monotonic() - self._started
        )


async def _events(first: schemas.GenerateChunk, rest: AsyncGenerator[schemas.GenerateChunk]) -> AsyncIterator[str]:
    """Server-sent events (WHATWG HTML, section 9.2); an error after the first is an event too."""
    async with aclosing(rest):
        yield _event(first.model_dump_json(exclude_none=True))
        try:
            async for chunk in rest:
                yield _event(chunk.model_dump_json(exclude_none=True))
        except ServiceError as error:
            detail = schemas.ErrorDetail(message=error.message, type="server_error", param=error.param, code=error.code)
            yield _event(schemas.ErrorResponse(error=detail).model_dump_json())
    yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


async def _document(body: schemas.CompressRequest, served: Services) -> list[int]:
    if body.token_ids is not None:
        await asyncio.to_thread(served.model.require_known, body.token_ids, param="token_ids")
        return body.token_ids
    # an empty text stays empty: a start token alone is no document
    if not body.text:
        return []
    return await asyncio.to_thread(served.model.tokenise, body.text, is_start=body.parent is None)


def _parts(body: schemas.Conditioned) -> list[Part]:
    return [
        TextPart(part.text or "") if part.summary_id is None else SummaryPart(part.summary_id) for part in body.parts
    ]


def _described(summary: Summary, served: Services) -> dict[str, Any]:
    manifest = summary.manifest
    return {
        "id": summary.id,
        "model": served.model.name,
        "created": int(manifest.created),
        "tokens": summary.tokens,
        "segments": len(manifest.segments),
        "vectors": manifest.vectors,
        "compression_ratio": round(summary.compression_ratio, 2),
        "parent": manifest.parent,
        "metadata": manifest.metadata,
    }


def _compressed(done: Compressed, served: Services, *, tokenize_seconds: float) -> schemas.CompressResponse:
    timings = schemas.CompressTimings(
        tokenize_seconds=tokenize_seconds,
        engine_seconds=done.engine_seconds,
        store_seconds=done.total_seconds - done.engine_seconds,
        total_seconds=tokenize_seconds + done.total_seconds,
    )
    return schemas.CompressResponse(
        **_described(done.summary, served), cached_segments=done.cached_segments, timings=timings
    )


def _usage(plan: Plan, num_completion_tokens: int) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=len(plan.token_ids),
        summary_vectors=plan.num_vectors,
        summarised_tokens=plan.summarised_tokens,
        completion_tokens=num_completion_tokens,
        total_tokens=len(plan.token_ids) + plan.num_vectors + num_completion_tokens,
    )
