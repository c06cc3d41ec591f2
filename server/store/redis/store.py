"""The store in Redis: shared by every replica, as durable as the server is told to be."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from redis.exceptions import OutOfMemoryError, RedisClusterException, RedisError

from server.store.protocol import (
    Entry,
    EntryChanged,
    EntryStat,
    MissingReferences,
    StillReferenced,
    StoreFull,
    StoreUnavailable,
    to_milliseconds,
)
from server.store.redis.circuit import Circuit
from server.store.redis.connect import Connected
from server.store.redis.scripts import DELETE, EXIST, LIST_REFERRERS, PUT_MANY, TOUCH
from server.store.redis.writes import script
from server.store.urls import without

VALUE_PREFIX = "autocompressor:value:"
NO_EVICTION = "noeviction"
ABSENT, FOREVER = -2, -1  # what PTTL answers instead of milliseconds (https://redis.io/docs/latest/commands/pttl/)


class RedisStore:
    """A `SummaryStore` in one Redis of version 7 or later, not a Redis Cluster: its scripts find keys through others.

    A put that has returned is in the server's memory, or where its URL waits for them on replicas or the disk; it
    survives the end of the server with `appendfsync always`, and all but its last second with `everysec`. Run it with
    `maxmemory-policy noeviction`: another policy removes entries that are live. Nothing is sent before the first call,
    so the server may start later than this.
    """

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._client = connected.client
        self._circuit = Circuit()
        self._is_full = False  # since a put was refused
        self._put_many = script(connected, PUT_MANY)
        self._exist = script(connected, EXIST)
        self._touch = script(connected, TOUCH)
        self._delete = script(connected, DELETE)
        self._list_referrers = connected.client.register_script(LIST_REFERRERS)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._as_store_errors():
            return cast(list[bytes | None], await self._client.mget([VALUE_PREFIX + key for key in keys]))

    async def exist(self, keys: Sequence[str]) -> list[bool]:
        with self._as_store_errors():
            return [bool(found) for found in await self._exist(args=keys)]

    async def put_many(
        self,
        entries: Sequence[Entry],
        *,
        ttl_seconds: float | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        unique = {entry.key: entry for entry in entries}
        described = [{"key": entry.key, "references": sorted(set(entry.references))} for entry in unique.values()]
        values = [entry.value for entry in unique.values()]
        places: list[dict[str, object]] = []
        for key, value in (expected or {}).items():
            if value is None:
                places.append({"key": key})
            else:
                values.append(value)
                places.append({"key": key, "place": len(values) + 1})
        request = {"entries": described, "expected": places, **_described(ttl_seconds)}
        with self._as_store_errors():
            outcome = await self._put_many(args=[json.dumps(request), *values])
        keys = [key.decode() for key in outcome[1:]]
        if outcome[:1] == [b"changed"]:
            raise EntryChanged(keys[0])
        if outcome[:1] == [b"missing"]:
            raise MissingReferences(keys)

    async def touch(self, keys: Sequence[str], *, ttl_seconds: float | None) -> list[bool]:
        request = json.dumps(_described(ttl_seconds))
        with self._as_store_errors():
            return [bool(found) for found in await self._touch(args=[request, *keys])]

    async def delete(self, key: str) -> bool:
        with self._as_store_errors():
            outcome = await self._delete(args=[key])
        if outcome == b"referenced":
            raise StillReferenced(key)
        return bool(outcome == b"removed")

    async def find(self, key: str) -> tuple[bytes, float | None] | None:
        value, milliseconds_left = await self._with_time_to_live("GET", key)
        return None if value is None else (value, _seconds_left(milliseconds_left))

    async def stat(self, key: str) -> EntryStat | None:
        size_bytes, milliseconds_left = await self._with_time_to_live("STRLEN", key)
        return None if milliseconds_left == ABSENT else EntryStat(size_bytes, _seconds_left(milliseconds_left))

    async def list_referrers(self, *, limit: int, after: str | None = None) -> list[str] | None:
        with self._as_store_errors():
            keys = await self._list_referrers(args=[limit, after or ""])
        return None if keys is None else [key.decode() for key in keys]

    async def _with_time_to_live(self, command: str, key: str) -> tuple[Any, int]:
        with self._as_store_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.execute_command(command, VALUE_PREFIX + key)
                pipeline.pttl(VALUE_PREFIX + key)
                answer, milliseconds_left = await pipeline.execute()
        return answer, milliseconds_left

    async def concerns(self) -> list[str]:
        # INFO, because who hosts a Redis for others often forbids CONFIG
        with self._as_store_errors():
            policy = (await self._client.info("memory")).get("maxmemory_policy", NO_EVICTION)
        if policy == NO_EVICTION:
            return []
        return [f"Redis has maxmemory-policy {policy}, which may remove summaries that live; {NO_EVICTION} keeps them"]

    async def ping(self) -> None:
        with self._as_store_errors():
            if not self._is_full:
                await self._client.ping()
                return
            memory = await self._client.info("memory")
        if memory["maxmemory"] and memory["used_memory"] >= memory["maxmemory"]:
            raise StoreFull("Redis is at its memory limit")
        self._is_full = False

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        with self._circuit.call():
            try:
                yield
            except OutOfMemoryError as error:
                self._is_full = True
                raise StoreFull(f"Redis is at its memory limit: {self._shown(error)}") from error
            except (RedisError, RedisClusterException) as error:
                raise StoreUnavailable(f"Redis failed: {self._shown(error)}") from error

    def _shown(self, error: Exception) -> str:
        """A cluster's errors may go on with the arguments of the command."""
        text = without(str(error), self._connected.secrets)
        return text.partition("\n")[0][:200] if isinstance(error, RedisClusterException) else text

    async def close(self) -> None:
        await self._connected.close()


def _described(ttl_seconds: float | None) -> dict[str, object]:
    """A time to live for a script."""
    milliseconds = to_milliseconds(ttl_seconds)
    return {} if milliseconds is None else {"ttl_milliseconds": milliseconds}


def _seconds_left(milliseconds: int) -> float | None:
    return None if milliseconds == FOREVER else milliseconds / 1000
