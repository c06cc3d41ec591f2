"""The keys that Redis keeps for us, and what scripts in Lua do with them."""

from server.store.protocol import REMEMBERED_SECONDS

VERSION = 2  # of what is kept under which names; part of each


def prefix_of(space: str) -> str:
    """What the names of a space's keys begin with. The braces have a Redis Cluster keep all of them in one slot.

    Each script is given it as its only key: a Cluster sends the script to where the slot is.
    """
    return f"autocompressor:{VERSION}:{{{space}}}:"


# What stands under one key of ours, `KEY`, behind the prefix of its space:
#   value:KEY       string: the value
#   references:KEY  set: what it references; expires with the value
#   referrers:KEY   sorted set: what references it, scored by when the referrer expires, so that those gone by then are
#                   told, and removed, by score; expires with the last of them
#   place:KEY       string: the score in the order that a key had which is gone, remembered for a while
# And the books of a space, which expire with the last of its entries:
#   order           sorted set: what references others, scored by when it was first put
#   sizes           hash: how many bytes the value of each entry has
#   bytes           string: their sum
#   expiring        sorted set: entries that expire, scored by when, so that what has expired is taken off the books
#   used            sorted set: what references others and is not pinned, scored by when it was last used
# Expiries are milliseconds since the epoch throughout: PEXPIREAT gives keys the very same one, where PEXPIRE counts
# from when each command runs. A script sees every key as of its own start, so nothing expires half way through it
# (https://redis.io/docs/latest/commands/eval/).
COMMON = f"""
local REMEMBERED = {1000 * REMEMBERED_SECONDS}
"""
COMMON += """
local NEVER = math.huge
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function named(kind, key) return KEYS[1] .. kind .. ':' .. key end

local ORDER, SIZES, BYTES = KEYS[1] .. 'order', KEYS[1] .. 'sizes', KEYS[1] .. 'bytes'
local EXPIRING, USED = KEYS[1] .. 'expiring', KEYS[1] .. 'used'
"""

WRITING = """
local function later(expiry, name)
    local existing = redis.call('PEXPIRETIME', name)  -- -1 never expires, -2 is absent
    if existing == -1 then return NEVER end
    return math.max(expiry, existing)
end

local function expire(name, expiry)
    if expiry == NEVER then redis.call('PERSIST', name) else redis.call('PEXPIREAT', name, expiry) end
end

-- an entry, in the books too
local function expire_entry(key, expiry)
    expire(named('value', key), expiry)
    expire(named('references', key), expiry)
    if expiry == NEVER then redis.call('ZREM', EXPIRING, key) else redis.call('ZADD', EXPIRING, expiry, key) end
end

local function expire_books(expiry)
    for _, name in ipairs({ORDER, SIZES, BYTES, EXPIRING, USED}) do expire(name, expiry) end
end

local function count(key, size)
    local before = tonumber(redis.call('HGET', SIZES, key) or 0)
    if size then redis.call('HSET', SIZES, key, size) else redis.call('HDEL', SIZES, key) end
    if redis.call('INCRBY', BYTES, (size or 0) - before) == 0 then redis.call('DEL', BYTES) end
end

-- what is gone: off the books, and out of the order, whose place is remembered
local function depart(key)
    count(key, nil)
    redis.call('ZREM', EXPIRING, key)
    redis.call('ZREM', USED, key)
    local place = redis.call('ZSCORE', ORDER, key)
    if not place then return end
    redis.call('ZREM', ORDER, key)
    redis.call('SET', named('place', key), place, 'PX', REMEMBERED)
end

-- so many at most of what has expired, and how many they were
local function sweep(limit)
    local keys = redis.call('ZRANGEBYSCORE', EXPIRING, '-inf', string.format('(%.0f', now), 'LIMIT', 0, limit)
    for _, key in ipairs(keys) do
        -- Redis may still say for a moment that it is there, as its clock stood when the script began
        if redis.call('EXISTS', named('value', key)) == 0 then depart(key) else return 0 end
    end
    return #keys
end

local function forget_expired_referrers(key)
    redis.call('ZREMRANGEBYSCORE', named('referrers', key), '-inf', string.format('(%.0f', now))
end

local function keep_references(key, expiry)
    for _, reference in ipairs(redis.call('SMEMBERS', named('references', key))) do
        forget_expired_referrers(reference)
        local referrers = named('referrers', reference)
        local referrers_expiry = later(expiry, referrers)
        redis.call('ZADD', referrers, 'GT', expiry == NEVER and '+inf' or expiry, key)
        expire(referrers, referrers_expiry)
        local existing = redis.call('PEXPIRETIME', named('value', reference))
        if existing ~= -1 and existing < expiry then
            expire_entry(reference, expiry)
            keep_references(reference, expiry)
        end
    end
end

local function is_referenced(key)
    forget_expired_referrers(key)
    return redis.call('EXISTS', named('referrers', key)) == 1
end

-- with all that nothing else references, but for what is kept
local function remove(key, kept)
    local references = redis.call('SMEMBERS', named('references', key))
    redis.call('DEL', named('value', key), named('references', key))
    depart(key)
    for _, reference in ipairs(references) do
        redis.call('ZREM', named('referrers', reference), key)
        if not kept[reference] and not is_referenced(reference) then remove(reference, kept) end
    end
end
"""
