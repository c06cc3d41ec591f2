"""Bytes of all spaces in Redis, and room made for more.

Spaces may be on several servers, so no script sees all of them.
"""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis, RedisCluster

from server.store.budget import Budget
from server.store.protocol import Entry, StoreFull
from server.store.redis.keys import VERSION, prefix_of
from server.store.redis.scripts import EVICT, SWEEP, TELL

# hash: how many bytes each space had when that was last told
SPACES = f"autocompressor:{VERSION}:spaces"
SWEPT_TOGETHER = 1000  # entries


@dataclass
class _Space:
    """How many bytes a space has, how many entries that have expired and count still, when the oldest was last used."""

    size_bytes: int
    num_expired: int
    oldest: float | None


class Room:
    """Knows what all spaces have together, and evicts where that is too much.

    `is_full`: Redis refused a put for want of memory, and is not known to have some since.
    """

    def __init__(self, client: Redis | RedisCluster, budget: Budget) -> None:
        self.is_full = False
        self._client = client
        self._budget = budget
        self._tell = client.register_script(TELL)
        self._sweep = client.register_script(SWEEP)
        self._evict = client.register_script(EVICT)

    async def names(self) -> list[str]:
        """Of all spaces that have entries, or had some."""
        names = cast(list[bytes], await self._client.hkeys(SPACES))
        return sorted(name.decode() for name in names)

    async def tell(self, space: str, size_bytes: int) -> None:
        """A space has so many bytes now."""
        self._budget.on_bytes(await self._tell(keys=[SPACES], args=[space, size_bytes]))

    async def measure(self) -> int:
        """Bytes of all spaces as they were last told."""
        total = sum(map(int, await self._client.hvals(SPACES)))
        self._budget.on_bytes(total)
        return total

    async def sweep(self) -> int:
        """Take off the books of all spaces what has expired, and say how many entries."""
        return sum([await self._swept(name) for name in await self.names()])

    async def make(self, space: str, entries: Sequence[Entry]) -> None:
        """Evict until these entries fit, none of which goes, nor what they reference.

        Raises:
            StoreFull: they do not fit beside what may not be evicted; what was evicted until then stays so.
        """
        limit = self._budget.max_bytes
        if limit is None or not entries:
            return
        size_bytes = sum(len(entry.value) for entry in entries)
        if await self.measure() + size_bytes <= limit:
            return
        size_bytes -= await self._replaced(space, entries)
        spaces = await self._spaces()
        over = sum(each.size_bytes for each in spaces.values()) + size_bytes - limit
        if over > 0 and size_bytes <= limit:
            kept = {entry.key for entry in entries}.union(*(entry.references for entry in entries))
            over = await self._evicted(spaces, over, {space: sorted(kept)})
        if over > 0:
            raise StoreFull(
                f"with this put the store has {limit + over} bytes, and the limit is {limit}; all that may be evicted "
                "would not make the room"
            )

    async def _replaced(self, space: str, entries: Sequence[Entry]) -> int:
        """Bytes of what stands under the keys of entries."""
        sizes = await self._client.hmget(prefix_of(space) + "sizes", [entry.key for entry in entries])
        return sum(int(size or 0) for size in sizes)

    async def _spaces(self) -> dict[str, _Space]:
        """All spaces, when what has expired is off their books."""
        found = await self._looked_at(await self.names())
        expired = [name for name, each in found.items() if each.num_expired]
        for name in expired:
            await self._swept(name)
        return found | await self._looked_at(expired)

    async def _looked_at(self, names: Sequence[str]) -> dict[str, _Space]:
        """These spaces, in one round trip."""
        if not names:
            return {}
        async with self._client.pipeline(transaction=False) as pipeline:
            for prefix in map(prefix_of, names):
                pipeline.get(f"{prefix}bytes")
                pipeline.zcount(f"{prefix}expiring", "-inf", f"({time.time_ns() // 1_000_000}")
                pipeline.zrange(f"{prefix}used", 0, 0, withscores=True)
            answers = iter(await pipeline.execute())
        return {
            name: _Space(int(size or 0), expired, oldest[0][1] if oldest else None)
            for name, (size, expired, oldest) in zip(names, zip(answers, answers, answers, strict=True), strict=True)
        }

    async def _evicted(self, spaces: dict[str, _Space], over: int, kept: dict[str, Sequence[str]]) -> int:
        """Evict so many bytes, what was used the longest ago first, and say how many are left to evict."""
        oldest = [(each.oldest, name) for name, each in spaces.items() if each.oldest is not None]
        heapq.heapify(oldest)
        num_evicted = 0
        while over > 0 and oldest:
            _, name = heapq.heappop(oldest)
            until = f"{oldest[0][0]:.0f}" if oldest else "+inf"
            answer = await self._evict(keys=[prefix_of(name)], args=[over, until, *kept.get(name, ())])
            num_removed, size_bytes, following = (int(each) for each in answer)
            num_evicted += num_removed
            over -= spaces[name].size_bytes - size_bytes
            spaces[name].size_bytes = size_bytes
            await self.tell(name, size_bytes)
            if following >= 0:
                heapq.heappush(oldest, (following, name))
        if num_evicted:
            self._budget.on_evicted(num_evicted)
        return over

    async def _swept(self, space: str) -> int:
        num_removed = 0
        while True:
            answer = await self._sweep(keys=[prefix_of(space)], args=[SWEPT_TOGETHER])
            num_swept, size_bytes = (int(each) for each in answer)
            num_removed += num_swept
            if num_swept < SWEPT_TOGETHER:
                await self.tell(space, size_bytes)
                return num_removed
