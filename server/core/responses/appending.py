"""Conversations appended to stored summaries: documents that continue their parents."""

from collections.abc import Sequence

from server.core.documents.compression import Compressor
from server.core.documents.document import Document
from server.core.responses.compacted import Cost, Parts
from server.core.responses.items import Item
from server.core.responses.opening import Opener, expired
from server.core.responses.transcript import told
from server.core.tenant import Tenant
from server.errors import SummaryNotFound, TooLong


class Appender:
    """Puts what was said into the store."""

    def __init__(self, compressor: Compressor, opener: Opener) -> None:
        self._compressor = compressor
        self._opener = opener

    async def append(
        self,
        tenant: Tenant,
        parts: Parts,
        items: Sequence[Item],
        ttl_seconds: float | None,
        cost: Cost,
        param: str,
    ) -> Parts:
        """The parts with the items after them: the last summary goes on, where the model has positions for more.

        Raises:
            TooLong: an item alone is over a limit. CompactionExpired: the last summary is gone. And what the engine and
                the store raise.
        """
        text = told(items)
        parent = parts[-1] if parts and isinstance(parts[-1], str) else None
        if not text:
            return parts
        document = Document(tenant=tenant, text=text, parent=parent, keep_text=True, ttl_seconds=ttl_seconds)
        try:
            done = await self._compressor.compress(document)
        except SummaryNotFound as error:
            raise expired(param) from error
        except TooLong as error:
            if parent is not None:  # another chain begins
                others = await self.append(tenant, (), items, ttl_seconds, cost, param)
                return (*parts, *others)
            if len(items) < 2:
                error.param = param
                raise
            half = len(items) // 2
            first = await self.append(tenant, parts, items[:half], ttl_seconds, cost, param)
            return await self.append(tenant, first, items[half:], ttl_seconds, cost, param)
        before = 0 if parent is None else (await self._opener.stored(tenant, parent, param=param)).tokens
        cost.tokens += done.summary.tokens - before
        cost.cached_tokens += done.cached_tokens
        return (*(parts if parent is None else parts[:-1]), done.summary.id)
