"""Compaction items opened: what is read of a conversation that was compacted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.core.documents.summaries import AllSummaries, Summary
from server.core.responses.compacted import Compacted, as_summary, decode
from server.core.responses.items import Compaction, Item, Message
from server.core.responses.sealing import Sealer
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.errors import CompactionExpired, SummaryNotFound
from server.store.codec import FingerprintMismatch


@dataclass(frozen=True)
class Context:
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


class Opener:
    """Opens items."""

    def __init__(self, model: ServedModel, summaries: AllSummaries, sealer: Sealer) -> None:
        self._model = model
        self._summaries = summaries
        self._sealer = sealer

    async def context(self, tenant: Tenant, items: Sequence[Item], *, param: str) -> Context:
        """What is to be read of a conversation: the newest compaction item stands for all before it.

        Of that only what instructs the model is read again, where the item does not have it.

        Raises:
            InvalidRequest: an item was not made here, or was changed. ModelMismatch: it is of another model.
        """
        places = [place for place, item in enumerate(items) if isinstance(item, Compaction)]
        if not places:
            return Context(Compacted(), tuple(items))
        newest = items[places[-1]]
        assert isinstance(newest, Compaction)
        compacted = await self.open(tenant, newest.sealed, param=param)
        known = {item.text for item in compacted.instructions if isinstance(item, Message)}
        before = Context(Compacted(), tuple(items[: places[-1]])).instructions
        new = tuple(item for item in before if isinstance(item, Message) and item.text not in known)
        return Context(compacted, (*compacted.instructions, *new, *compacted.rest, *items[places[-1] + 1 :]))

    async def open(self, tenant: Tenant, sealed: str, *, param: str) -> Compacted:
        """What an item stands for. Raises as `context`."""
        data = await self._sealer.open(tenant, sealed, param=param)
        try:
            return await asyncio.to_thread(
                decode, data, fingerprint=self._model.fingerprint, dtype=getattr(torch, self._model.dtype)
            )
        except FingerprintMismatch as error:
            raise self._model.mismatch("the compaction item", error.stored, param=param) from error

    async def opened(self, tenant: Tenant, sealed: str, *, param: str) -> tuple[list[Summary], tuple[Item, ...]]:
        """An item as what conditions a prompt: summaries, and items word for word after them. Raises as `sources`."""
        compacted = await self.open(tenant, sealed, param=param)
        return await self.sources(tenant, compacted, param=param), (*compacted.instructions, *compacted.rest)

    async def sources(self, tenant: Tenant, compacted: Compacted, *, param: str) -> list[Summary]:
        """The summaries that condition what follows a compacted conversation, in order.

        Raises:
            CompactionExpired: one is no longer in the store. And what the store raises.
        """
        return [
            await self.stored(tenant, part, param=param) if isinstance(part, str) else as_summary(part, self._model)
            for part in compacted.parts
        ]

    async def touch(self, tenant: Tenant, compacted: Compacted, *, ttl_seconds: float | None) -> None:
        """Have stored vectors live at least so long."""
        for part in compacted.parts:
            if isinstance(part, str):
                await self._summaries.of(tenant).touch(part, ttl_seconds=ttl_seconds)

    async def stored(self, tenant: Tenant, summary_id: str, *, param: str) -> Summary:
        """A summary that an item names; CompactionExpired where it is gone."""
        try:
            return await self._summaries.of(tenant).get(summary_id, param=param)
        except SummaryNotFound as error:
            raise expired(param) from error


def expired(param: str) -> CompactionExpired:
    """The error of an item that is whole, and names what is gone."""
    return CompactionExpired(
        "the compaction item is whole, and the vectors that it names are deleted or have expired", param=param
    )
