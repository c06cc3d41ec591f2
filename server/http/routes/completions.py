"""`/v1/completions`."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.core.core import Core
from server.core.prompts.plan import Call, CompactionPart, Part, Plan, SummaryPart, TextPart
from server.core.prompts.prepared import Prepared
from server.core.receipts import Stopwatch
from server.core.services import Services
from server.core.tenant import Tenant
from server.core.together import together
from server.http.answers import openai, sse
from server.http.answers.choices import Choices, Piece, Scored, Whole, finite
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.sampling import biases, sampling_params, with_seed_of
from server.http.routing import Route
from server.http.schemas import openai_replies as replies
from server.http.schemas.openai import CompactionContent, CompletionRequest, ContentPart, SummaryContent

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_PREPARED_TOGETHER = 8
EVERY_TOKEN = "`echo` with `logprobs` scores every token as it stands; give `truncate` to have the oldest compressed"
NOTHING = Piece("", (), None)
router = APIRouter(route_class=Route, tags=["openai"], responses=possible_errors())


@router.post(
    "/v1/completions",
    response_model=replies.Completion,
    responses={200: {"content": sse.CONTENT}},
)
async def completions(
    body: CompletionRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Continue prompts: OpenAI's completions.

    Of a prompt longer than the window the oldest tokens are compressed (`truncate`); where even their vectors exceed
    it, the oldest are dropped, as `compression.dropped_tokens` in the answer says.

    `echo` with `logprobs` is refused there unless the request itself says how to `truncate`: what is compressed or
    dropped has no log-probabilities, and those of the rest are others.

    The texts of control tokens in a prompt stand for these, so that a prompt can be a rendered template.

    A prompt of parts may have stored summaries among its texts; a text before a summary is compressed in its place.
    Where none follows the last summary, the answer goes on from what the summaries stand for.
    """
    watch = Stopwatch()
    services = core.models.named(body.model)
    work = services.door.through(partial(_answer, core, services, tenant, body, watch))
    return await sse.answered(request, response, watch, work, is_stream=bool(body.stream))


async def _answer(
    core: Core, services: Services, tenant: Tenant, body: CompletionRequest, watch: Stopwatch
) -> "_Answer":
    """Nothing is computed before every prompt is known to fit."""
    logit_bias = biases(body, services.model)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = sampling_params(body, services.model, max_tokens=max_tokens)
    params = services.model.stopping(replace(params, logit_bias=logit_bias, num_logprobs=body.logprobs or 0))
    plans = [
        await _plan(services, Call(tenant, place, place), prompt, body.max_vectors)
        for prompt, place in zip(body.prompts, body.places, strict=True)
    ]
    wish = openai.wish_of(body, max_tokens)
    if body.echo and body.logprobs is not None and "truncate" not in body.model_fields_set:
        wish = replace(wish, truncate="error", refusal=EVERY_TOKEN)
    fitted = [await services.preparer.fit(plan, wish) for plan in plans]
    work = [partial(openai.prepare, services, body, *each) for each in zip(plans, fitted, strict=True)]
    prepared = await together(work, limit=MAX_PREPARED_TOGETHER)
    choices = [(each.prompt, with_seed_of(params, index)) for each in prepared for index in range(body.num_choices)]
    limit = core.settings.max_running_sequences
    return _Answer(services, body, prepared, Choices(services.decoder, choices, watch, limit=limit))


async def _plan(services: Services, call: Call, prompt: Any, max_vectors: int | None) -> Plan:
    prompter = services.prompter
    if isinstance(prompt, str):
        return await prompter.plan(call, [TextPart(prompt)], max_vectors=max_vectors)
    if prompt and isinstance(prompt[0], int):
        await asyncio.to_thread(services.model.require_known, prompt, param=call.tokens)
        return prompter.plan_tokens(call, (), prompt, max_vectors=max_vectors)
    return await prompter.plan(call, [_part(part) for part in prompt], max_vectors=max_vectors)


def _part(content: ContentPart) -> Part:
    match content:
        case SummaryContent():
            return SummaryPart(content.id)
        case CompactionContent():
            return CompactionPart(content.encrypted_content)
    return TextPart(content.text)


class _Answer(openai.Answer[CompletionRequest]):
    def __init__(
        self, services: Services, body: CompletionRequest, prepared: Sequence[Prepared], choices: Choices
    ) -> None:
        super().__init__(services, body, prepared, choices, prefix="cmpl")
        scored = prepared if body.logprobs is not None else []
        self._offsets = [self._words.offsets(each.prompt.token_ids) for each in scored for _ in range(body.num_choices)]

    async def whole(self) -> replies.Completion:
        echoes = await self._echoes()
        choices = await self._choices.whole()
        answer = self._reply(await asyncio.to_thread(self._ended, echoes, choices))
        answer.usage, answer.compression = self._usage(), self._compression()
        return answer

    def _ended(self, echoes: Sequence[Piece], choices: Sequence[Whole]) -> list[replies.CompletionChoice]:
        return [
            self._choice(
                index,
                Piece(choice.text, tuple(choice.tokens), choice.finish_reason),
                echo=echoes[index // self._body.num_choices],
            )
            for index, choice in enumerate(choices)
        ]

    async def chunks(self) -> AsyncGenerator[str]:
        """A chunk as JSON for each piece of text of each choice, with `echo` the prompt first."""
        for index, echo in enumerate(await self._echoes()):
            for choice in range(index * self._body.num_choices, (index + 1) * self._body.num_choices):
                if echo.text:
                    begun = await asyncio.to_thread(self._choice, choice, NOTHING, echo=echo)
                    yield self._json(self._reply([begun]))
        async with aclosing(self._choices.pieces()) as pieces:
            async for index, piece in pieces:
                yield self._json(self._reply([self._choice(index, piece)]))
        if self._body.has_usage_chunk:
            last = self._reply([])
            last.usage, last.compression = self._usage(), self._compression()
            yield self._json(last)

    async def _echoes(self) -> list[Piece]:
        """What each prompt's choices begin with."""
        if not self._body.echo:
            return [NOTHING] * len(self._prepared)
        work = [partial(self._echo, index) for index in range(len(self._prepared))]
        if self._body.logprobs is None:
            return await together(work, limit=self._choices.limit)
        with self._choices.watch.engine():
            return await together(work, limit=self._choices.limit)

    async def _echo(self, index: int) -> Piece:
        prepared, prompt = self._prepared[index], self._body.prompts[index]
        text = (
            prompt
            if isinstance(prompt, str)
            else await asyncio.to_thread(self._services.model.decode, prepared.token_ids)
        )
        scored = () if self._body.logprobs is None else await self._scored(prepared, self._body.logprobs)
        return Piece(text, scored, None)

    async def _scored(self, prepared: Prepared, num_logprobs: int) -> tuple[Scored, ...]:
        """The prompt's tokens: those that nothing precedes, or that are not read raw, have no log-probability."""
        raw = prepared.prompt.token_ids
        num_unscored = len(prepared.token_ids) - len(raw) + 1
        unscored = tuple(Scored(token_id, None) for token_id in prepared.token_ids[:num_unscored])
        if len(raw) < 2:
            return unscored
        first = replace(prepared.prompt, token_ids=raw[:1])
        (result,) = await self._services.decoder.score(
            first, [raw[1:]], num_logprobs=num_logprobs, meter=self._choices.watch.meter
        )
        tops = result.top_logprobs or ((),) * len(result.token_ids)
        scored = zip(result.token_ids, result.logprobs, tops, strict=True)
        return (*unscored, *(Scored(*each) for each in scored))

    def _choice(self, index: int, piece: Piece, *, echo: Piece = NOTHING) -> replies.CompletionChoice:
        return replies.CompletionChoice(
            index=index,
            text=echo.text + piece.text,
            logprobs=None if self._body.logprobs is None else self._logprobs(index, piece, echo),
            finish_reason=piece.finish_reason,
        )

    def _logprobs(self, index: int, piece: Piece, echo: Piece) -> replies.CompletionLogprobs:
        tokens = (*echo.tokens, *piece.tokens)
        texts = [self._words.text(token.token_id) for token in tokens]
        self._offsets[index].shift(len(echo.text))
        prompt = self._body.prompts[index // self._body.num_choices]
        written = echo.text if isinstance(prompt, str) else ""  # others are shown without control tokens
        echoed = self._words.offsets(written=written).of(_ids(echo))
        return replies.CompletionLogprobs(
            tokens=texts,
            token_logprobs=[None if token.logprob is None else finite(token.logprob) for token in tokens],
            top_logprobs=[self._top(token, text) for token, text in zip(tokens, texts, strict=True)]
            if self._body.logprobs
            else None,
            text_offset=[*echoed, *self._offsets[index].of(_ids(piece))],
        )

    def _top(self, token: Scored, own_text: str) -> dict[str, float] | None:
        """By text: the likeliest of tokens that show alike; the token itself even where it is none of these."""
        if token.logprob is None:
            return None
        by_text: dict[str, float] = {}
        for token_id, logprob in (*token.top, (token.token_id, token.logprob)):
            by_text.setdefault(own_text if token_id == token.token_id else self._words.text(token_id), finite(logprob))
        return by_text

    def _reply(self, choices: list[replies.CompletionChoice]) -> replies.Completion:
        return replies.Completion(object="text_completion", choices=choices, **self._named)

    def _json(self, chunk: replies.Completion) -> str:
        return chunk.model_dump_json(exclude_unset=True)


def _ids(piece: Piece) -> list[int]:
    return [token.token_id for token in piece.tokens]
