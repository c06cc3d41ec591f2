"""The store in Redis: shared by every replica, as durable as the server is told to be."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, cast

from redis.exceptions import OutOfMemoryError, RedisClusterException, RedisError

from server.store.budget import UNBOUNDED, Budget
from server.store.protocol import (
    OWN_SPACE,
    Entry,
    EntryChanged,
    EntryStat,
    Kept,
    MissingReferences,
    QuotaExceeded,
    SpaceStats,
    StillReferenced,
    StoreFull,
    StoreUnavailable,
    Swept,
    require_space,
    to_milliseconds,
)
from server.store.redis.circuit import Circuit
from server.store.redis.connect import Connected
from server.store.redis.keys import prefix_of
from server.store.redis.room import Room
from server.store.redis.scripts import DELETE, EXIST, FIND, LIST_REFERRERS, PUT_MANY, READ, TOUCH, USE
from server.store.redis.writes import script
from server.store.urls import without
from server.store.uses import Used, Uses

WALKED_TOGETHER = 500  # keys
NO_EVICTION = "noeviction"
OLD_ORDER = "autocompressor:order"  # of version 1, before there were spaces
ABSENT, FOREVER = -2, -1  # what PTTL answers instead of milliseconds (https://redis.io/docs/latest/commands/pttl/)


class RedisStore:
    """A `SummaryStore` in Redis of version 7 or later. All keys of a space are in one slot of a Redis Cluster.

    A put that has returned is in the server's memory, or where its URL waits for them on replicas or the disk; it
    survives the end of the server with `appendfsync always`, and all but its last second with `everysec`. Run it with
    `maxmemory-policy noeviction`: another policy removes entries that are live. Nothing is sent before the first call,
    so the server may start later than this.
    What was evicted for a put that is then refused stays so, as spaces may be on several servers.
    """

    may_lose = True

    def __init__(self, connected: Connected, budget: Budget = UNBOUNDED) -> None:
        self._connected = connected
        self._client = connected.client
        self._circuit = Circuit()
        self._budget = budget
        self._room = Room(connected.client, budget)
        self._uses = Uses(self._write_uses)
        acknowledged = {"put_many": PUT_MANY, "exist": EXIST, "touch": TOUCH, "delete": DELETE}
        others = {"find": FIND, "read": READ, "use": USE, "list_referrers": LIST_REFERRERS}
        self._scripts = {name: script(connected, text) for name, text in acknowledged.items()}
        self._scripts |= {name: connected.client.register_script(text) for name, text in others.items()}
        self._go_to(OWN_SPACE)

    def _go_to(self, space: str) -> None:
        self._space = space
        self._prefix = prefix_of(space)

    def space(self, name: str) -> "RedisStore":
        view = copy(self)
        view._go_to(require_space(name))
        return view

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:  # a cluster would not know whom to ask
            return []
        with self._as_store_errors():
            return cast(list[bytes | None], await self._client.mget([f"{self._prefix}value:{key}" for key in keys]))

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        with self._as_store_errors():
            return [bool(found) for found in await self._run("exist", *keys)]

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        unique = {entry.key: entry for entry in entries}
        described = [
            {"key": entry.key, "references": sorted(set(entry.references)), "is_pinned": entry.is_pinned}
            for entry in unique.values()
        ]
        values = [entry.value for entry in unique.values()]
        places: list[dict[str, object]] = []
        for key, value in (expected or {}).items():
            if value is None:
                places.append({"key": key})
            else:
                values.append(value)
                places.append({"key": key, "place": len(values) + 1})
        request = {"entries": described, "expected": places, **_described(ttl_seconds)}
        quota = self._budget.quotas.get(self._space)
        if quota is not None:
            request["max_bytes"] = quota
        with self._as_store_errors():
            if self._budget.max_bytes is not None:
                await self._write_uses(self._uses.take())
                await self._room.make(self._space, list(unique.values()))
            outcome, *about = (each.decode() for each in await self._run("put_many", json.dumps(request), *values))
            if outcome == "stored":
                await self._room.tell(self._space, int(about[0]))
        if outcome == "changed":
            raise EntryChanged(about[0])
        if outcome == "missing":
            raise MissingReferences(about)
        if outcome == "quota":
            assert quota is not None
            raise QuotaExceeded(int(about[0]), quota)

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        request = json.dumps(_described(ttl_seconds))
        with self._as_store_errors():
            return [bool(found) for found in await self._run("touch", request, *keys)]

    async def delete(self, key: str) -> bool:
        with self._as_store_errors():
            outcome, *left = await self._run("delete", key)
            if outcome == b"removed":
                await self._room.tell(self._space, int(left[0]))
        if outcome == b"referenced":
            raise StillReferenced(key)
        return bool(outcome == b"removed")

    def use(self, keys: Sequence[str]) -> None:
        if self._budget.max_bytes is not None:
            self._uses.note(self._space, keys)

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        with self._as_store_errors():
            value, milliseconds_left = await self._run("find", "GET", key)
        return None if value is None else (value, _seconds_left(milliseconds_left))

    async def read(self, keys: Sequence[str]) -> list[Kept | None]:
        with self._as_store_errors():
            found = await self._run("read", *keys)
        return [
            None if value is None else Kept(_entry(key, value, references, may_go), _seconds_left(milliseconds_left))
            for key, (value, milliseconds_left, may_go, references) in zip(keys, found, strict=True)
        ]

    async def stat(self, key: str) -> EntryStat | None:
        with self._as_store_errors():
            size_bytes, milliseconds_left = await self._run("find", "STRLEN", key)
        return None if milliseconds_left == ABSENT else EntryStat(size_bytes, _seconds_left(milliseconds_left))

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        with self._as_store_errors():
            keys = await self._run("list_referrers", limit, after or "")
        return None if keys is None else [key.decode() for key in keys]

    async def walk(self) -> AsyncIterator[list[str]]:
        cursor: Any = 0
        while True:
            with self._as_store_errors():
                cursor, sizes = await self._client.hscan(f"{self._prefix}sizes", cursor, count=WALKED_TOGETHER)
            names = [key.decode() for key in cast(dict[bytes, bytes], sizes)]
            yield [name for name, is_there in zip(names, await self.exist(names), strict=True) if is_there]
            if int(cursor) == 0:
                return

    async def size_bytes(self) -> int:
        with self._as_store_errors():
            return int(await self._client.get(f"{self._prefix}bytes") or 0)

    async def stats(self) -> list[SpaceStats]:
        with self._as_store_errors():
            await self._room.sweep()
            found = []
            for name in await self._room.names():
                async with self._client.pipeline(transaction=False) as pipeline:
                    pipeline.hlen(f"{prefix_of(name)}sizes")
                    pipeline.zcard(f"{prefix_of(name)}order")
                    pipeline.get(f"{prefix_of(name)}bytes")
                    entries, documents, size = await pipeline.execute()
                found.append(SpaceStats(name, entries, documents, int(size or 0)))
        return found

    async def sweep(self) -> Swept:
        with self._as_store_errors():
            return Swept(await self._room.sweep(), 0)

    async def _run(self, script: str, *args: str | bytes | int) -> Any:
        return await self._scripts[script](keys=[self._prefix], args=args)

    async def _write_uses(self, used: Used) -> None:
        with self._as_store_errors():
            for space, keys in used.items():
                await self._scripts["use"](keys=[prefix_of(space)], args=list(keys))

    async def concerns(self) -> list[str]:
        # INFO, because who hosts a Redis for others often forbids CONFIG
        with self._as_store_errors():
            policy = (await self._client.info("memory")).get("maxmemory_policy", NO_EVICTION)
            has_old = await self._client.exists(OLD_ORDER)
        found = []
        if policy != NO_EVICTION:
            found.append(
                f"Redis has maxmemory-policy {policy}, which may remove summaries that live; {NO_EVICTION} keeps them"
            )
        if has_old:
            found.append(f"Redis has summaries of an earlier version ({OLD_ORDER}), which this one does not find")
        return found

    async def ping(self) -> None:
        with self._as_store_errors():
            if not self._room.is_full:
                await self._room.measure()
                return
            memory = await self._client.info("memory")
        if memory["maxmemory"] and memory["used_memory"] >= memory["maxmemory"]:
            raise StoreFull("Redis is at its memory limit")
        self._room.is_full = False

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        with self._circuit.call():
            try:
                yield
            except OutOfMemoryError as error:
                self._room.is_full = True
                raise StoreFull(f"Redis is at its memory limit: {self._shown(error)}") from error
            except (RedisError, RedisClusterException) as error:
                raise StoreUnavailable(f"Redis failed: {self._shown(error)}") from error

    def _shown(self, error: Exception) -> str:
        """A cluster's errors may go on with the arguments of the command."""
        text = without(str(error), self._connected.secrets)
        return text.partition("\n")[0][:200] if isinstance(error, RedisClusterException) else text

    async def close(self) -> None:
        await self._uses.close()
        await self._connected.close()


def _described(ttl_seconds: float | None) -> dict[str, object]:
    """A time to live for a script."""
    milliseconds = to_milliseconds(ttl_seconds)
    return {} if milliseconds is None else {"ttl_milliseconds": milliseconds}


def _entry(key: str, value: bytes, references: Sequence[bytes], may_go: int) -> Entry:
    named = tuple(sorted(each.decode() for each in references))
    return Entry(key, value, named, is_pinned=bool(named) and not may_go)


def _seconds_left(milliseconds: int) -> float | None:
    return None if milliseconds == FOREVER else milliseconds / 1000
