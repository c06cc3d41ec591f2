"""`/v1/chat/completions`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from server.core.core import Core
from server.core.documents.summaries import Summary
from server.core.prompts.chat_template import Said, rendered_in_thread
from server.core.prompts.plan import Call
from server.core.receipts import Stopwatch
from server.core.responses import transcript
from server.core.services import Services
from server.core.tenant import Tenant
from server.http.answers import openai, sse
from server.http.answers.choices import Choices, Piece, Scored, Whole, finite
from server.http.answers.dependencies import WithCore, WithTenant
from server.http.answers.errors import possible_errors
from server.http.answers.sampling import biases, sampling_params, with_seed_of
from server.http.routing import Route
from server.http.schemas import openai_replies as replies
from server.http.schemas.openai import ChatRequest, CompactionContent, Message, SummaryContent, TextContent

router = APIRouter(route_class=Route, tags=["openai"], responses=possible_errors())


@router.post(
    "/v1/chat/completions",
    response_model=replies.ChatCompletion,
    responses={200: {"content": sse.CONTENT}},
)
async def chat_completions(
    body: ChatRequest, request: Request, response: Response, core: WithCore, tenant: WithTenant
) -> Any:
    """Answer a conversation: OpenAI's chat completions.

    Of a conversation longer than the window the oldest tokens are compressed (`truncate`); where even their vectors
    exceed it, the oldest are dropped, as `compression.dropped_tokens` in the answer says.

    Messages may have stored summaries among their texts. All of them condition the whole conversation, in order, since
    vectors stand before all tokens.

    Control tokens' texts in messages are text, unless `parse_special` says otherwise: the template alone writes others.
    """
    watch = Stopwatch()
    services = core.models.named(body.model)
    work = services.door.through(partial(_answer, core, services, tenant, body, watch))
    return await sse.answered(request, response, watch, work, is_stream=bool(body.stream))


async def _answer(core: Core, services: Services, tenant: Tenant, body: ChatRequest, watch: Stopwatch) -> "_Answer":
    logit_bias = biases(body, services.model)
    summaries, said = await _conditions(services, tenant, body.messages)
    most = services.prompter.window if body.truncate == "error" else None
    rendered = await rendered_in_thread(services.model, said, parse_special=body.parse_special, most=most)
    call = Call(tenant, "messages", "messages")
    plan = services.prompter.plan_tokens(call, summaries, rendered.token_ids, max_vectors=body.max_vectors)
    wish = openai.wish_of(body, body.wanted_tokens)
    fitted = await services.preparer.fit(plan, wish, query=_question(body.messages))
    params = sampling_params(body, services.model, max_tokens=fitted.max_tokens)
    params = services.model.stopping(
        replace(
            params,
            stop=(*params.stop, *rendered.stop),
            logit_bias=logit_bias,
            num_logprobs=body.top_logprobs or 0,
        )
    )
    prepared = await openai.prepare(services, body, plan, fitted)
    work = [(prepared.prompt, with_seed_of(params, index)) for index in range(body.num_choices)]
    choices = Choices(services.decoder, work, watch, limit=core.settings.max_running_sequences, gap=rendered.gap)
    return _Answer(services, body, [prepared], choices, prefix="chatcmpl")


async def _conditions(
    services: Services, tenant: Tenant, messages: Sequence[Message]
) -> tuple[tuple[Summary, ...], list[Said]]:
    """The summaries among messages, in order, and the texts: a compaction item's stand before its message."""
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    summary_ids = [part.id for part in parts if isinstance(part, SummaryContent)]
    stored = iter(await services.summaries.of(tenant).get_many(summary_ids, param="messages"))
    summaries: list[Summary] = []
    said: list[Said] = []
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, SummaryContent):
                summaries.append(next(stored))
            elif isinstance(part, CompactionContent):
                own, items = await services.opener.opened(tenant, part.encrypted_content, param="messages")
                summaries += own
                said += transcript.said(items)
        said.append(_said(message))
    return tuple(summaries), said


def _said(message: Message) -> Said:
    """The texts of a message; models know what came before OpenAI's developer messages as the system's."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(p.text for p in content if isinstance(p, TextContent))
    return Said("system" if message.role == "developer" else message.role, text)


def _question(messages: Sequence[Message]) -> str | None:
    """What was said last, but for the answers; None where nothing was."""
    said = (_said(message).text for message in reversed(messages) if message.role != "assistant")
    return next((text for text in said if text.strip()), None)


class _Answer(openai.Answer[ChatRequest]):
    async def whole(self) -> replies.ChatCompletion:
        choices = await self._choices.whole()
        return replies.ChatCompletion(
            choices=[self._choice(index, choice) for index, choice in enumerate(choices)],
            usage=self._usage(),
            compression=self._compression(),
            **self._named,
        )

    async def chunks(self) -> AsyncGenerator[str]:
        """As JSON, a chunk with the role for each choice, one for each piece of text, one for each choice's end."""
        async with aclosing(self._choices.pieces()) as pieces:
            has_begun = False
            async for index, piece in pieces:
                if not has_begun:  # only now: the engine may still refuse, which is to be a status
                    has_begun = True
                    for choice in range(self._body.num_choices):
                        yield self._chunk(choice, replies.Delta(role="assistant", content="", refusal=None))
                if piece.text or piece.tokens:
                    yield self._chunk(index, replies.Delta(content=piece.text), tokens=piece.tokens)
                if piece.finish_reason is not None:
                    yield self._chunk(index, replies.Delta(), end=piece)
        if self._body.has_usage_chunk:
            last = self._reply([])
            last.usage, last.compression = self._usage(), self._compression()
            yield last.model_dump_json(exclude_unset=True)

    def _choice(self, index: int, choice: Whole) -> replies.ChatChoice:
        message = replies.AssistantMessage(content=choice.text)
        return replies.ChatChoice(
            index=index, message=message, logprobs=self._logprobs(choice.tokens), finish_reason=choice.finish_reason
        )

    def _chunk(
        self, index: int, delta: replies.Delta, *, tokens: Sequence[Scored] = (), end: Piece | None = None
    ) -> str:
        choice = replies.DeltaChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(tokens) if tokens else None,
            finish_reason=None if end is None else end.finish_reason,
        )
        return self._reply([choice]).model_dump_json(exclude_unset=True)

    def _logprobs(self, tokens: Sequence[Scored]) -> replies.ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return replies.ChatLogprobs(
            content=[
                replies.TokenLogprob(
                    **self._shown(token.token_id, token.logprob or 0.0),
                    top_logprobs=[replies.TopLogprob(**self._shown(*top)) for top in token.top],
                )
                for token in tokens
            ],
            refusal=None,
        )

    def _shown(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = list(self._words.raw(token_id))
        return {"token": self._words.text(token_id), "logprob": finite(logprob), "bytes": raw}

    def _reply(self, choices: list[replies.DeltaChoice]) -> replies.ChatChunk:
        return replies.ChatChunk(object="chat.completion.chunk", choices=choices, **self._named)
