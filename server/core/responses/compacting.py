"""Conversations to compaction items and back: what was said becomes summary vectors, what is new appends to them."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import torch

from server.core.documents.compression import Compressor
from server.core.documents.document import Document
from server.core.documents.summaries import CarriedSegment, Summaries, Summary
from server.core.responses import compacted as capsule
from server.core.responses.compacted import Compacted
from server.core.responses.items import Compaction, Item, Message
from server.core.responses.sealing import Sealer
from server.core.responses.transcript import told
from server.core.served_model import ServedModel, require_possible
from server.core.tenant import Tenant
from server.engine.protocol import Encoder, Meter
from server.errors import CompactionExpired, ServiceError, SummaryNotFound, TooLong
from server.limits import MAX_SEALED


@dataclass(frozen=True)
class Window:
    """What of a conversation is read: what was compacted of it, then items word for word."""

    compacted: Compacted
    items: tuple[Item, ...]

    @property
    def instructions(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if isinstance(item, Message) and item.instructs)

    @property
    def conversation(self) -> tuple[Item, ...]:
        """The items but for the instructions."""
        return tuple(item for item in self.items if not (isinstance(item, Message) and item.instructs))


@dataclass
class Read:
    """What compacting took: document tokens, those of them whose vectors were stored, and vectors in all."""

    tokens: int = 0
    cached_tokens: int = 0
    vectors: int = 0


class Compactor:
    """Makes items and opens them."""

    def __init__(
        self, model: ServedModel, encoder: Encoder, compressor: Compressor, summaries: Summaries, sealer: Sealer
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._compressor = compressor
        self._summaries = summaries
        self._sealer = sealer

    async def window(self, tenant: Tenant, items: Sequence[Item], *, param: str) -> Window:
        """What is to be read of a conversation: the newest compaction item stands for all before it.

        Of that only what instructs the model is read again, where the item does not have it.

        Raises:
            InvalidRequest: an item was not made here, or was changed. ModelMismatch: it is of another model.
        """
        places = [place for place, item in enumerate(items) if isinstance(item, Compaction)]
        if not places:
            return Window(Compacted(), tuple(items))
        newest = items[places[-1]]
        assert isinstance(newest, Compaction)
        compacted = await self.open(tenant, newest.sealed, param=param)
        known = {item.text for item in compacted.instructions if isinstance(item, Message)}
        before = Window(Compacted(), tuple(items[: places[-1]])).instructions
        new = tuple(item for item in before if isinstance(item, Message) and item.text not in known)
        return Window(compacted, (*compacted.instructions, *new, *compacted.rest, *items[places[-1] + 1 :]))

    async def open(self, tenant: Tenant, sealed: str, *, param: str) -> Compacted:
        """What an item stands for. Raises as `window`."""
        data = await self._sealer.open(tenant, sealed, param=param)
        try:
            return await asyncio.to_thread(
                capsule.decode, data, fingerprint=self._model.fingerprint, dtype=getattr(torch, self._model.dtype)
            )
        except ServiceError as error:
            error.param = param
            raise

    async def opened(self, tenant: Tenant, sealed: str, *, param: str) -> tuple[list[Summary], tuple[Item, ...]]:
        """An item as what conditions a prompt: summaries, and items word for word after them. Raises as `sources`."""
        compacted = await self.open(tenant, sealed, param=param)
        return await self.sources(compacted, param=param), (*compacted.instructions, *compacted.rest)

    async def sources(self, compacted: Compacted, *, param: str) -> list[Summary]:
        """The summaries that condition what follows a compacted conversation, in order.

        Raises:
            CompactionExpired: one is no longer in the store. And what the store raises.
        """
        return [
            await self._stored(part, param=param) if isinstance(part, str) else capsule.as_summary(part, self._model)
            for part in compacted.parts
        ]

    async def compact(
        self,
        tenant: Tenant,
        window: Window,
        *,
        num_kept: int = 0,
        is_stored: bool,
        ttl_seconds: float | None,
        param: str,
        meter: Meter | None = None,
    ) -> tuple[str, Read]:
        """Append a conversation to what was compacted of it, and seal that.

        Args:
            num_kept: its last items, so many, stay as they are.
            is_stored: the vectors are put into the store, to live so long, and the item has ids; else it has them.

        Raises:
            TooLong: an item of it alone, or all vectors together, are over a limit.
            CompactionExpired: what it is to be appended to is gone. And what the engine and the store raise.
        """
        conversation = window.conversation
        old, kept = conversation[: len(conversation) - num_kept], conversation[len(conversation) - num_kept :]
        read = Read()
        parts = window.compacted.parts
        if is_stored:
            parts = await self._appended(tenant, parts, old, ttl_seconds, read, param)
            sources = await self.sources(Compacted(parts), param=param)
            read.vectors = sum(source.manifest.vectors for source in sources)
        else:
            parts = await self._carried(parts, old, read, param, meter)
        result = Compacted(parts, window.instructions, kept)
        data = await asyncio.to_thread(capsule.encode, result, fingerprint=self._model.fingerprint)
        return await self._sealer.seal(tenant, data), read

    async def touch(self, compacted: Compacted, *, ttl_seconds: float | None) -> None:
        """Have stored vectors live at least so long."""
        for part in compacted.parts:
            if isinstance(part, str):
                await self._summaries.touch(part, ttl_seconds=ttl_seconds)

    async def _appended(
        self,
        tenant: Tenant,
        parts: tuple[str | tuple[CarriedSegment, ...], ...],
        items: Sequence[Item],
        ttl_seconds: float | None,
        read: Read,
        param: str,
    ) -> tuple[str | tuple[CarriedSegment, ...], ...]:
        """The parts with the items after them: the last summary goes on, where the model has positions for more."""
        text = told(items)
        parent = parts[-1] if parts and isinstance(parts[-1], str) else None
        if not text:
            return parts
        document = Document(tenant=tenant, text=text, parent=parent, keep_text=True, ttl_seconds=ttl_seconds)
        try:
            done = await self._compressor.compress(document)
        except SummaryNotFound as error:
            raise _expired(param) from error
        except TooLong as error:
            if parent is not None:  # another chain begins
                others = await self._appended(tenant, (), items, ttl_seconds, read, param)
                return (*parts, *others)
            if len(items) < 2:
                error.param = param
                raise
            half = len(items) // 2
            first = await self._appended(tenant, parts, items[:half], ttl_seconds, read, param)
            return await self._appended(tenant, first, items[half:], ttl_seconds, read, param)
        before = 0 if parent is None else (await self._stored(parent, param=param)).tokens
        read.tokens += done.summary.tokens - before
        read.cached_tokens += done.cached_tokens
        return (*(parts if parent is None else parts[:-1]), done.summary.id)

    async def _carried(
        self,
        parts: Sequence[str | tuple[CarriedSegment, ...]],
        items: Sequence[Item],
        read: Read,
        param: str,
        meter: Meter | None,
    ) -> tuple[tuple[CarriedSegment, ...], ...]:
        """The parts with the items after them, all of them carried: nothing is stored."""
        carried = [await self._fetched(part, param) if isinstance(part, str) else part for part in parts]
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
        read.tokens += len(token_ids)
        read.vectors = sum(len(segment.summary) for part in carried for segment in part)
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

    async def _fetched(self, summary_id: str, param: str) -> tuple[CarriedSegment, ...]:
        """A stored summary's segments, to be carried."""
        summary = await self._stored(summary_id, param=param)
        keys = summary.manifest.segments
        try:
            vectors = await self._summaries.read_segments(summary, range(len(keys)))
        except SummaryNotFound as error:
            raise _expired(param) from error
        texts = await self._summaries.segments.texts(keys)
        if any(text is None for text in texts):
            raise _expired(param)
        return tuple(CarriedSegment(one, text or ()) for one, text in zip(vectors, texts, strict=True))

    async def _stored(self, summary_id: str, *, param: str) -> Summary:
        try:
            return await self._summaries.get(summary_id, param=param)
        except SummaryNotFound as error:
            raise _expired(param) from error


def _expired(param: str) -> CompactionExpired:
    return CompactionExpired(
        "the compaction item is whole, and the vectors that it names are deleted or have expired", param=param
    )


def kept_for_reply(conversation: Sequence[Item]) -> int:
    """How many last items of a conversation are not compacted before it is answered: what was asked last, and since."""
    for place in range(len(conversation) - 1, -1, -1):
        item = conversation[place]
        if isinstance(item, Message) and item.role == "user":
            return len(conversation) - place
    return len(conversation)
