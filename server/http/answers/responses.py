"""One response on its way, as events in the order of Open Responses, or whole."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from server.core.receipts import Stopwatch
from server.core.responses.calls import CallReader
from server.core.responses.compacted import Cost
from server.core.responses.items import Compaction, Item
from server.core.responses.records import Conversation, Turn
from server.core.responses.responding import Ready
from server.core.served_model import ServedModel
from server.core.words import Words
from server.errors import ServiceError
from server.http.answers.choices import Choices, Piece, Scored, finite
from server.http.answers.errors import error_detail
from server.http.answers.receipts import shown_expansion
from server.http.answers.response_items import new_id, shown
from server.http.answers.response_output import Event, Output
from server.http.answers.sampling import sampling_params
from server.http.schemas.responses import ResponseRequest

Keep = Callable[[Turn], Awaitable[None]]


@dataclass(frozen=True)
class Begun:
    """What a response begins with.

    Attributes:
        ready, choices: the prompt and its one answer; None where nothing but a compaction is asked for.
        compaction: what was compacted on the way.
        keep: takes the turn when it is over, before its end is told.
    """

    items: tuple[Item, ...]
    conversation: Conversation
    ready: Ready | None
    choices: Choices | None
    compaction: tuple[Compaction, Cost] | None
    watch: Stopwatch
    words: Words
    has_tools: bool
    keep: Keep


class Response:
    """A response; once its last event was made, `turn` is what became of it, or `error` what it failed of."""

    def __init__(self, body: ResponseRequest, begun: Begun, *, model: ServedModel) -> None:
        self._body, self._begun = body, begun
        self._is_cut = False
        self.error: ServiceError | None = None
        self.turn: Turn | None = None
        self._resource = _resource(body, model)
        self._said = Output(self._resource["id"])

    async def whole(self) -> dict[str, Any]:
        """The response at its end. Raises what ended it."""
        last: Event = {}
        async with aclosing(self.events()) as events:
            async for event in events:
                last = event
        if self.error is not None:
            raise self.error
        response: dict[str, Any] = last["response"]
        return response

    async def chunks(self) -> AsyncGenerator[tuple[str, str]]:
        """The events as server-sent ones."""
        async with aclosing(self.events()) as events:
            async for event in events:
                yield event["type"], to_json(event).decode()

    async def events(self) -> AsyncGenerator[Event]:
        """From `response.created` to the end; what fails before there is a first word is raised, not told."""
        async with aclosing(self._pieces()) as pieces:
            first = await anext(pieces, None)  # only then: the engine may still refuse, which is to be a status
            yield self._said.event("response.created", response=self._now("in_progress"))
            yield self._said.event("response.in_progress", response=self._now("in_progress"))
            try:
                for event in self._compacted():
                    yield event
                async for event in self._spoken(first, pieces):
                    yield event
                end = await self._ended()
            except ServiceError as error:
                self.error = error
                yield self._said.event("error", error=error_detail(error).model_dump())
                yield self._said.event("response.failed", response=self._now("failed"))
                return
        yield self._said.event(f"response.{end['status']}", response=end)

    async def _pieces(self) -> AsyncGenerator[Piece]:
        if self._begun.choices is None:
            return
        async with aclosing(self._begun.choices.pieces()) as pieces:
            async for _, piece in pieces:
                yield piece

    def _compacted(self) -> Iterator[Event]:
        if self._begun.compaction is None:
            return
        item, _ = self._begun.compaction
        yield self._said.event("response.output_item.added", output_index=0, item=shown(item))
        yield self._said.event("response.output_item.done", output_index=0, item=shown(item))
        self._said.items.append(item)

    async def _spoken(self, first: Piece | None, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Event]:
        """What the model says: messages, and calls where it was offered tools."""
        if first is None:
            return
        reader = CallReader() if self._begun.has_tools else None
        piece: Piece | None = first
        while piece is not None:
            self._is_cut = piece.finish_reason == "length"
            logprobs = self._shown_logprobs(piece.tokens)
            for part in [piece.text] if reader is None else reader.read(piece.text):
                for event in self._said.add(part, logprobs):
                    yield event
                logprobs = []
            piece = await anext(rest, None)
        for part in [] if reader is None else reader.rest():
            for event in self._said.add(part, []):
                yield event
        for event in self._said.end("incomplete" if self._is_cut else "completed"):
            yield event

    async def _ended(self) -> dict[str, Any]:
        """The response at its end, which is kept by now."""
        response = self._now("incomplete" if self._is_cut else "completed")
        begun = self._begun
        self.turn = Turn(response["id"], begun.conversation.before, begun.items, tuple(self._said.items), response)
        await begun.keep(self.turn)
        return response

    def _now(self, status: str) -> dict[str, Any]:
        """The response as far as it is."""
        is_over = status in ("completed", "incomplete")
        error = None
        if self.error is not None:
            error = {"code": self.error.code, "message": self.error.message}
        return self._resource | {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._said.shown,
            "error": error,
            "usage": self._usage() if is_over else None,
            "compression": self._compression() if is_over else None,
        }

    def _usage(self) -> dict[str, Any]:
        ready, choices, watch = self._begun.ready, self._begun.choices, self._begun.watch
        cost = self._begun.compaction[1] if ready is None and self._begun.compaction is not None else Cost()
        num_input = cost.tokens if ready is None else ready.input_tokens
        num_cached = cost.cached_tokens if ready is None else ready.cached_tokens(watch)
        return usage(num_input, num_cached, 0 if choices is None else choices.num_generated)

    def _compression(self) -> dict[str, Any]:
        """What became of the conversation's tokens; a field of this server's own."""
        told: dict[str, Any] = {"compaction": None}
        if self._begun.compaction is not None:
            told["compaction"] = shown_cost(*self._begun.compaction)
        if self._begun.ready is not None:
            ready = self._begun.ready
            prepared = ready.prepared
            told |= {
                "summary_vectors": prepared.num_vectors,
                "thinned_vectors": prepared.num_thinned,
                "raw_tokens": len(prepared.prompt.token_ids),
                "compressed_tokens": prepared.compressed_tokens,
                "dropped_tokens": prepared.num_dropped,
                "expanded": [each.model_dump() for each in shown_expansion(prepared.expanded)],
            }
        return told

    def _shown_logprobs(self, tokens: Sequence[Scored]) -> list[dict[str, Any]]:
        if not self._body.has_logprobs:
            return []
        return [
            self._shown_token(each.token_id, each.logprob or 0.0)
            | {"top_logprobs": [self._shown_token(*top) for top in each.top]}
            for each in tokens
        ]

    def _shown_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        words = self._begun.words
        return {"token": words.text(token_id), "logprob": finite(logprob), "bytes": list(words.raw(token_id))}


def usage(num_input: int, num_cached: int, num_output: int) -> dict[str, Any]:
    return {
        "input_tokens": num_input,
        "input_tokens_details": {"cached_tokens": num_cached},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_input + num_output,
    }


def shown_cost(item: Compaction, cost: Cost) -> dict[str, Any]:
    """What a compaction took, and how large it is; fields of this server's own."""
    return {
        "tokens": cost.tokens,
        "cached_tokens": cost.cached_tokens,
        "vectors": cost.vectors,
        "encrypted_characters": len(item.sealed),
    }


def _resource(body: ResponseRequest, model: ServedModel) -> dict[str, Any]:
    """A response's fields that do not change on its way."""
    sampling = sampling_params(body, model, max_tokens=0)
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": model.name,
        "previous_response_id": body.previous_response_id,
        "instructions": body.instructions,
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict,
            }
            for tool in body.tools or []
        ],
        "tool_choice": body.tool_choice or "auto",
        "truncation": body.truncation or "disabled",
        "parallel_tool_calls": True if body.parallel_tool_calls is None else body.parallel_tool_calls,
        "text": {"format": {"type": "text"}},
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "top_logprobs": body.top_logprobs or 0,
        "temperature": sampling.temperature,
        "reasoning": {"effort": None, "summary": None},
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "store": body.store,
        "background": False,
        "service_tier": "default",
        "metadata": body.metadata or {},
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
    }
