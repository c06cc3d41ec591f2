"""How much of a text its vectors keep: the loss of its own last tokens after nothing, after vectors, after the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.compressors import SegmentSummary
from server.core.served_model import ServedModel
from server.engine.protocol import Decoder, Encoder, Prompt
from server.errors import NotReady, Overloaded
from server.metrics import Metrics

MIN_TOKENS = 64  # of a text that is measured
MAX_SCORED = 192
MAX_CONTEXT = 2048  # read in full, so that a long document is not
LEAST_GAIN = 0.01  # nats a token: a share of less is noise


@dataclass(frozen=True)
class Retention:
    """Mean losses, in nats a token, of the last `scored_tokens` of a text, after up to 2,048 tokens before them.

    Attributes:
        context_tokens: read in full for `full`, and as vectors for `summary`.
        none: with no context but the one token before those that are scored.
    """

    scored_tokens: int
    context_tokens: int
    none: float
    summary: float
    full: float

    @property
    def share(self) -> float | None:
        """Of what the context in full gains, the share that its vectors gain; None where it gains next to nothing."""
        gained = self.none - self.full
        return (self.none - self.summary) / gained if gained >= LEAST_GAIN else None


class Retainer:
    """Measures texts; nothing is stored.

    The vectors are made anew, of a context that ends where the scored tokens begin: the document's own know those.
    """

    def __init__(self, model: ServedModel, encoder: Encoder, decoder: Decoder, metrics: Metrics) -> None:
        self._model = model
        self._encoder = encoder
        self._decoder = decoder
        self._metrics = metrics

    async def measured(self, token_ids: Sequence[int]) -> Retention | None:
        """Of a text's tokens, without its parents; None of fewer than 64.

        Raises:
            NotReady: the engine's line stayed full. And what else the engine raises.
        """
        if len(token_ids) < MIN_TOKENS:
            return None
        num_scored = min(MAX_SCORED, len(token_ids) // 4, self._model.window // 4)
        num_context = min(MAX_CONTEXT, len(token_ids) - num_scored - 1, self._model.window // 2)
        *before, seam = token_ids[-num_scored - num_context - 1 : -num_scored]
        scored = token_ids[-num_scored:]
        try:
            vectors = await self._vectors(before)
            prompts = (Prompt(None, (seam,)), Prompt(vectors, (seam,)), Prompt(None, (*before, seam)))
            losses = [await self._loss(prompt, scored) for prompt in prompts]
        except Overloaded as error:  # the document itself is there: nothing that 429 says of this request is true
            raise NotReady(f"the document is stored, and was not measured: {error.message}") from error
        retention = Retention(num_scored, num_context, *losses)
        if retention.share is not None:
            self._metrics.retention.observe(min(1.0, max(0.0, retention.share)))  # a histogram's sum must not fall
        return retention

    async def _vectors(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The soft prompt that stands for a text."""
        segments = self._model.segments(token_ids)
        summaries: list[SegmentSummary] = [summary async for summary in self._encoder.compress(segments, waits=True)]
        return torch.cat([summary.vectors for summary in self._model.conditioning(summaries)])

    async def _loss(self, prompt: Prompt, token_ids: Sequence[int]) -> float:
        (scored,) = await self._decoder.score(prompt, [token_ids], waits=True)
        return -scored.total / len(scored.logprobs)
