"""The store in Redis: shared by every replica, as durable as the server is told to be."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from server.store.protocol import (
    Entry,
    EntryStat,
    MissingReferences,
    StillReferenced,
    StoreFull,
    StoreUnavailable,
    to_milliseconds,
)

VALUE_PREFIX = "autocompressor:value:"
ABSENT, FOREVER = -2, -1  # what PTTL answers instead of milliseconds (https://redis.io/docs/latest/commands/pttl/)

# What stands under one key of ours, `KEY`:
#   autocompressor:value:KEY       string: the value
#   autocompressor:references:KEY  set: what it references; expires with the value
#   autocompressor:referrers:KEY   sorted set: what references it, scored by when the referrer expires, so that those
#                                  gone by then are told, and removed, by score; expires with the last of them
# And under one name of its own:
#   autocompressor:order           sorted set: what references others, scored by when it was first put; expires with the
#                                  last of them
# Expiries are milliseconds since the epoch throughout: PEXPIREAT gives keys the very same one, where PEXPIRE counts
# from when each command runs. A script sees every key as of its own start, so nothing expires half way through it
# (https://redis.io/docs/latest/commands/eval/).
COMMON = """
local NEVER = math.huge
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function named(kind, key) return 'autocompressor:' .. kind .. ':' .. key end

local ORDER = 'autocompressor:order'

local function later(expiry, name)
    local existing = redis.call('PEXPIRETIME', name)  -- -1 never expires, -2 is absent
    if existing == -1 then return NEVER end
    return math.max(expiry, existing)
end

local function expire(name, expiry)
    if expiry == NEVER then redis.call('PERSIST', name) else redis.call('PEXPIREAT', name, expiry) end
end

local function forget_expired_referrers(key)
    redis.call('ZREMRANGEBYSCORE', named('referrers', key), '-inf', string.format('(%.0f', now))
end

local function is_referenced(key)
    forget_expired_referrers(key)
    return redis.call('EXISTS', named('referrers', key)) == 1
end
"""

# A script that starts with `#!lua` is refused as a whole when memory is over the limit, before it has written anything
# (https://redis.io/docs/latest/develop/programmability/lua-api/#script_flags).
# ARGV[1] is JSON, {ttl_milliseconds: number or absent, entries: [{key, references}]}; ARGV[2...] the values.
PUT_MANY = (
    "#!lua\n"
    + COMMON
    + """
local request = cjson.decode(ARGV[1])
local expiry = request.ttl_milliseconds and now + request.ttl_milliseconds or NEVER

local in_call, missing = {}, {}
for _, entry in ipairs(request.entries) do in_call[entry.key] = true end
for _, entry in ipairs(request.entries) do
    for _, reference in ipairs(entry.references) do
        if not in_call[reference] and redis.call('EXISTS', named('value', reference)) == 0 then
            table.insert(missing, reference)
        end
    end
end
if #missing > 0 then return missing end

local function write(entry, value)
    local name = named('value', entry.key)
    entry.expiry = later(expiry, name)
    if #entry.references == 0 or redis.call('EXISTS', name) == 0 then redis.call('ZREM', ORDER, entry.key) end
    if #entry.references > 0 then
        local order_expiry = later(entry.expiry, ORDER)
        redis.call('ZADD', ORDER, 'NX', time[1] * 1000000 + time[2], entry.key)
        expire(ORDER, order_expiry)
    end
    redis.call('SET', name, value)
    expire(name, entry.expiry)
    local references = named('references', entry.key)
    for _, reference in ipairs(redis.call('SMEMBERS', references)) do
        redis.call('ZREM', named('referrers', reference), entry.key)
    end
    redis.call('DEL', references)
    for _, reference in ipairs(entry.references) do redis.call('SADD', references, reference) end
    if #entry.references > 0 then expire(references, entry.expiry) end
end

local function keep_references(key, expiry)
    for _, reference in ipairs(redis.call('SMEMBERS', named('references', key))) do
        forget_expired_referrers(reference)
        local referrers = named('referrers', reference)
        local referrers_expiry = later(expiry, referrers)
        redis.call('ZADD', referrers, 'GT', expiry == NEVER and '+inf' or expiry, key)
        expire(referrers, referrers_expiry)
        local value = named('value', reference)
        local existing = redis.call('PEXPIRETIME', value)
        if existing ~= -1 and existing < expiry then
            expire(value, expiry)
            expire(named('references', reference), expiry)
            if redis.call('ZSCORE', ORDER, reference) then expire(ORDER, later(expiry, ORDER)) end
            keep_references(reference, expiry)
        end
    end
end

-- more than a put adds, so that the expired are a small share of the order
for _, key in ipairs(redis.call('ZRANDMEMBER', ORDER, 4 * #request.entries)) do
    if redis.call('EXISTS', named('value', key)) == 0 then redis.call('ZREM', ORDER, key) end
end
for index, entry in ipairs(request.entries) do write(entry, ARGV[index + 1]) end
for _, entry in ipairs(request.entries) do keep_references(entry.key, entry.expiry) end
return {}
"""
)

# Removing must work when memory is full, hence the flag. ARGV[1] is the key.
DELETE = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + """
local function remove(key)
    local references = redis.call('SMEMBERS', named('references', key))
    redis.call('DEL', named('value', key), named('references', key))
    redis.call('ZREM', ORDER, key)
    for _, reference in ipairs(references) do
        redis.call('ZREM', named('referrers', reference), key)
        if not is_referenced(reference) then remove(reference) end
    end
end

if redis.call('EXISTS', named('value', ARGV[1])) == 0 then return 'absent' end
if is_referenced(ARGV[1]) then return 'referenced' end
remove(ARGV[1])
return 'removed'
"""
)


# ARGV[1] is how many, ARGV[2] the key they come after, or empty. False is None in redis-py.
LIST_REFERRERS = (
    "#!lua flags=no-writes\n"
    + COMMON
    + """
local limit, start = tonumber(ARGV[1]), 0
if ARGV[2] ~= '' then
    local rank = redis.call('ZREVRANK', ORDER, ARGV[2])
    if not rank or redis.call('EXISTS', named('value', ARGV[2])) == 0 then return false end
    start = rank + 1
end
local found = {}
while #found < limit do
    local keys = redis.call('ZREVRANGE', ORDER, start, start + limit - 1)
    if #keys == 0 then break end
    for _, key in ipairs(keys) do
        if #found < limit and redis.call('EXISTS', named('value', key)) == 1 then table.insert(found, key) end
    end
    start = start + #keys
end
return found
"""
)


class RedisStore:
    """A `SummaryStore` in one Redis of version 7 or later, not a Redis Cluster: its scripts find keys through others.

    A put that has returned is in the server's memory; it survives the end of the server with `appendfsync always`,
    and all but its last second with `everysec`. Run it with `maxmemory-policy noeviction`: another policy removes
    entries that are live. Nothing is sent before the first call, so the server may start later than this.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._put_many = client.register_script(PUT_MANY)
        self._delete = client.register_script(DELETE)
        self._list_referrers = client.register_script(LIST_REFERRERS)

    @classmethod
    def open(cls, url: str) -> "RedisStore":
        """Make a client of a redis://, rediss:// or unix:// URL; its query may set options of redis-py.

        A server that refuses connections is StoreUnavailable in a fraction of a second, a silent one in 6 seconds.
        ValueError if redis-py does not take the URL or an option of its query.
        """
        client = Redis.from_url(
            url,
            socket_connect_timeout=2.0,
            socket_timeout=2.0,
            # a connection that was dropped while idle fails at its next command; each of ours may be sent twice
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=2),
        )
        pool = client.connection_pool
        try:
            # otherwise redis-py meets an unknown option when it first connects
            pool.connection_class(**pool.connection_kwargs)
        except TypeError as error:
            raise ValueError(f"an option of the Redis URL is unknown: {error}") from error
        return cls(client)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with _as_store_errors():
            return cast(list[bytes | None], await self._client.mget([VALUE_PREFIX + key for key in keys]))

    async def put_many(self, entries: Sequence[Entry], *, ttl_seconds: float | None = None) -> None:
        unique = {entry.key: entry for entry in entries}
        described = [{"key": entry.key, "references": sorted(set(entry.references))} for entry in unique.values()]
        request: dict[str, object] = {"entries": described}
        if (ttl_milliseconds := to_milliseconds(ttl_seconds)) is not None:
            request["ttl_milliseconds"] = ttl_milliseconds
        values = [entry.value for entry in unique.values()]
        with _as_store_errors():
            missing = await self._put_many(args=[json.dumps(request), *values])
        if missing:
            raise MissingReferences([key.decode() for key in missing])

    async def delete(self, key: str) -> bool:
        with _as_store_errors():
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
        with _as_store_errors():
            keys = await self._list_referrers(args=[limit, after or ""])
        return None if keys is None else [key.decode() for key in keys]

    async def _with_time_to_live(self, command: str, key: str) -> tuple[Any, int]:
        with _as_store_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.execute_command(command, VALUE_PREFIX + key)
                pipeline.pttl(VALUE_PREFIX + key)
                answer, milliseconds_left = await pipeline.execute()
        return answer, milliseconds_left

    async def ping(self) -> None:
        with _as_store_errors():
            await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()


def _seconds_left(milliseconds: int) -> float | None:
    return None if milliseconds == FOREVER else milliseconds / 1000


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull(f"Redis is at its memory limit: {error}") from error
    except RedisError as error:
        raise StoreUnavailable(f"Redis failed: {error}") from error
