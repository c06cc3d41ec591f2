"""Conversations to compaction items: what was said becomes summary vectors, what is new appends to them."""

import asyncio
from collections.abc import Sequence

from server.core.responses.appending import Appender
from server.core.responses.carrying import Carrier
from server.core.responses.compacted import Compacted, Cost, encode
from server.core.responses.items import Item, Message
from server.core.responses.opening import Context, Opener
from server.core.responses.sealing import Sealer
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import Meter


class Compactor:
    """Makes items."""

    def __init__(
        self, model: ServedModel, opener: Opener, appender: Appender, carrier: Carrier, sealer: Sealer
    ) -> None:
        self._model = model
        self._opener = opener
        self._appender = appender
        self._carrier = carrier
        self._sealer = sealer

    async def compact(
        self,
        tenant: Tenant,
        context: Context,
        *,
        num_kept: int = 0,
        is_stored: bool,
        ttl_seconds: float | None,
        param: str,
        meter: Meter | None = None,
    ) -> tuple[str, Cost]:
        """Append a conversation to what was compacted of it, and seal that.

        Args:
            num_kept: its last items, so many, stay as they are.
            is_stored: the vectors are put into the store, to live so long, and the item has ids; else it has them.

        Raises:
            TooLong: an item of it alone, or all vectors together, are over a limit.
            CompactionExpired: what it is to be appended to is gone. And what the engine and the store raise.
        """
        conversation = context.conversation
        old, kept = conversation[: len(conversation) - num_kept], conversation[len(conversation) - num_kept :]
        cost = Cost()
        parts = context.compacted.parts
        if is_stored:
            parts = await self._appender.append(tenant, parts, old, ttl_seconds, cost, param)
            sources = await self._opener.sources(tenant, Compacted(parts), param=param)
            cost.vectors = sum(source.manifest.vectors for source in sources)
        else:
            parts = await self._carrier.append(tenant, parts, old, cost, param, meter)
        result = Compacted(parts, context.instructions, kept)
        data = await asyncio.to_thread(encode, result, fingerprint=self._model.fingerprint)
        return await self._sealer.seal(tenant, data), cost


def kept_for_reply(conversation: Sequence[Item]) -> int:
    """How many last items of a conversation are not compacted before it is answered: what was asked last, and since."""
    for place in range(len(conversation) - 1, -1, -1):
        item = conversation[place]
        if isinstance(item, Message) and item.role == "user":
            return len(conversation) - place
    return len(conversation)
