"""Conversations whose vectors travel with their item: compressed without the store, and nothing is kept."""

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

import torch

from server.core.documents.summaries import AllSummaries, CarriedSegment
from server.core.responses.compacted import Cost, Parts
from server.core.responses.items import Item
from server.core.responses.opening import Opener, expired
from server.core.responses.transcript import told
from server.core.served_model import ServedModel, require_possible
from server.core.tenant import Tenant
from server.engine.protocol import Encoder, Meter
from server.errors import SummaryNotFound, TooLong
from server.limits import MAX_SEALED


class Carrier:
    """Makes segments to be carried."""

    def __init__(self, model: ServedModel, encoder: Encoder, summaries: AllSummaries, opener: Opener) -> None:
        self._model = model
        self._encoder = encoder
        self._summaries = summaries
        self._opener = opener

    async def append(
        self,
        tenant: Tenant,
        parts: Parts,
        items: Sequence[Item],
        cost: Cost,
        param: str,
        meter: Meter | None,
    ) -> Parts:
        """The parts with the items after them, all of them carried.

        Raises:
            TooLong: no item has room for all of it. CompactionExpired: a stored summary among the parts is gone. And
                what the engine and the store raise.
        """
        carried = [await self._fetched(tenant, part, param) if isinstance(part, str) else part for part in parts]
        text = told(items)
        work = partial(self._tokenised_to_carry, text, carried, param)
        token_ids = await self._model.long_texts.in_thread(len(text), work) if text else []
        segments = [tuple(segment) for segment in self._model.segments(token_ids)]
        # as many more as a chain has positions for, then another chain
        while segments:
            last = carried[-1] if carried else ()
            lengths = [len(segment.token_ids) for segment in last]
            taken = self._most(lengths, segments)
            if not taken and last:
                carried.append(())
                continue
            self._model.require_segments([len(segment) for segment in segments[: max(1, taken)]])
            made = await self._made(segments[:taken], last, meter)
            carried[len(carried) - 1 if carried else 0 :] = [(*last, *made)]
            segments = segments[taken:]
        cost.tokens += len(token_ids)
        cost.vectors = sum(len(segment.summary) for part in carried for segment in part)
        return tuple(carried)

    def _tokenised_to_carry(self, text: str, carried: Sequence[Sequence[CarriedSegment]], param: str) -> list[int]:
        """Tokens of what is to be carried; TooLong where no item has room for their vectors beside those it has."""
        tokenise = partial(self._model.tokenise, is_start=not carried, parse_special=False, param=param)
        config = self._model.config
        bytes_a_token = 4 + self._model.hidden_size * config.num_vectors(config.segment_length) / config.segment_length
        most = int(MAX_SEALED * 3 / 4 / bytes_a_token)
        limit = f"without `store` an item of {MAX_SEALED} characters takes about"
        require_possible(text, most, tokenise, what="the conversation", limit=limit, param=param)
        token_ids = tokenise(text)
        num_tokens = len(token_ids) + sum(len(segment.token_ids) for part in carried for segment in part)
        if num_tokens > most:
            raise TooLong(f"the conversation has {num_tokens} tokens; {limit} {most}", param=param)
        return token_ids

    def _most(self, lengths: Sequence[int], segments: Sequence[Sequence[int]]) -> int:
        """How many of these segments can follow those of such lengths."""
        for taken in range(len(segments), 0, -1):
            try:
                self._model.require_segments([*lengths, *map(len, segments[:taken])])
            except TooLong:
                continue
            return taken
        return 0

    async def _made(
        self, segments: Sequence[Sequence[int]], before: Sequence[CarriedSegment], meter: Meter | None
    ) -> list[CarriedSegment]:
        """The summaries of segments after others."""
        soft_prompt = None
        if before and not self._model.config.reads_alone:
            conditioning = self._model.conditioning([segment.summary.vectors for segment in before])
            soft_prompt = torch.cat(list(conditioning))
        async with aclosing(self._encoder.compress(segments, soft_prompt=soft_prompt, meter=meter)) as summaries:
            made = [summary async for summary in summaries]
        return [CarriedSegment(one, tuple(token_ids)) for one, token_ids in zip(made, segments, strict=True)]

    async def _fetched(self, tenant: Tenant, summary_id: str, param: str) -> tuple[CarriedSegment, ...]:
        """A stored summary's segments, to be carried."""
        summary = await self._opener.stored(tenant, summary_id, param=param)
        summaries, keys = self._summaries.of(tenant), summary.manifest.segments
        try:
            vectors = await summaries.read_segments(summary, range(len(keys)))
        except SummaryNotFound as error:
            raise expired(param) from error
        texts = await summaries.segments.texts(keys)
        if any(text is None for text in texts):
            raise expired(param)
        return tuple(CarriedSegment(one, text or ()) for one, text in zip(vectors, texts, strict=True))
