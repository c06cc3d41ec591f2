"""A prompt continued, conditioned on stored summaries."""

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from server.core.prompts.expansion import Expander
from server.core.prompts.plan import Call, Condition, Plan
from server.core.prompts.prompting import Prompter
from server.core.receipts import Receipt, Stopwatch, Usage
from server.core.served_model import ServedModel
from server.engine.protocol import Decoder, FinishReason, Prompt, SamplingParams, TokenEvent


class Generator:
    """Begins generations."""

    def __init__(self, model: ServedModel, decoder: Decoder, prompter: Prompter, expander: Expander) -> None:
        self._model = model
        self._decoder = decoder
        self._prompter = prompter
        self._expander = expander

    async def begin(
        self,
        call: Call,
        condition: Condition,
        params: Callable[[int], SamplingParams],
        *,
        max_tokens: int | None,
    ) -> "Generation":
        """A generation whose prompt is ready; nothing is generated before its events are asked for.

        Args:
            params: for as many tokens as are to be generated.
            max_tokens: how many are wanted; None is as many as fit up to a fixed number.

        Raises:
            InvalidRequest, TooLong, SummaryNotFound: of the prompt, or of `stop_token_ids`. And what the engine and the
                store raise.
        """
        watch = Stopwatch()
        plan = await self._prompter.plan(call, condition.parts, max_vectors=condition.max_vectors, is_bounded=True)
        plan = await self._expander.conditioned(plan, condition)
        return await self.begin_planned(plan, params, watch, max_tokens=max_tokens)

    async def begin_planned(
        self, plan: Plan, params: Callable[[int], SamplingParams], watch: Stopwatch, *, max_tokens: int | None
    ) -> "Generation":
        """As `begin`, of a prompt whose plan is made."""
        plan = self._prompter.fitted(plan, self._prompter.num_wanted(max_tokens))
        sampling = self._model.stopping(params(self._prompter.max_tokens(plan, max_tokens)))
        return Generation(self._decoder, plan, await self._prompter.assemble(plan), sampling, watch)


@dataclass(frozen=True)
class Timings:
    """Of a generation, from when its prompt was ready."""

    time_to_first_token_seconds: float
    total_seconds: float


@dataclass(eq=False)
class Generation:
    """One generation on its way; `usage`, `timings` and `receipt` are of what came until now."""

    decoder: Decoder
    plan: Plan
    prompt: Prompt
    params: SamplingParams
    watch: Stopwatch
    id: str = field(default_factory=lambda: f"gen-{uuid.uuid4().hex}", init=False)
    started: float = field(default_factory=time.monotonic, init=False)
    num_generated: int = field(default=0, init=False)
    first_token_seconds: float = field(default=0.0, init=False)

    async def events(self) -> AsyncGenerator[TokenEvent]:
        """Its tokens; the last has a finish reason."""
        async with aclosing(self.decoder.generate(self.prompt, self.params, meter=self.watch.meter)) as events:
            async for event in events:
                self.watch.engine_seconds = time.monotonic() - self.started
                if not self.num_generated:
                    self.first_token_seconds = self.watch.engine_seconds
                self.num_generated += 1
                yield event

    async def pieces(self) -> AsyncGenerator[TokenEvent]:
        """Those of its tokens that made text certain, and the last."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.text or event.finish_reason is not None:
                    yield event

    async def whole(self) -> tuple[str, FinishReason]:
        """All of its text, and why it ends."""
        texts, reason = list[str](), None
        async with aclosing(self.events()) as events:
            async for event in events:
                texts.append(event.text)
                reason = event.finish_reason
        assert reason is not None
        return "".join(texts), reason

    @property
    def usage(self) -> Usage:
        return self.plan.usage(self.num_generated)

    @property
    def timings(self) -> Timings:
        return Timings(self.first_token_seconds, time.monotonic() - self.started)

    @property
    def receipt(self) -> Receipt:
        return self.plan.receipt(self.watch)
