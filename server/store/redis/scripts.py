"""What Redis does in one go: Lua scripts, and the keys that they keep."""

from server.store.protocol import REMEMBERED_SECONDS

# What stands under one key of ours, `KEY`:
#   autocompressor:value:KEY       string: the value
#   autocompressor:references:KEY  set: what it references; expires with the value
#   autocompressor:referrers:KEY   sorted set: what references it, scored by when the referrer expires, so that those
#                                  gone by then are told, and removed, by score; expires with the last of them
#   autocompressor:place:KEY       string: the score in the order that a key had which is gone, remembered for a while
# And under one name of its own:
#   autocompressor:order           sorted set: what references others, scored by when it was first put; expires with the
#                                  last of them
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

local function named(kind, key) return 'autocompressor:' .. kind .. ':' .. key end

local ORDER = 'autocompressor:order'

-- out of the order, whose place is remembered
local function depart(key)
    local place = redis.call('ZSCORE', ORDER, key)
    if not place then return end
    redis.call('ZREM', ORDER, key)
    redis.call('SET', named('place', key), place, 'PX', REMEMBERED)
end

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

local function is_referenced(key)
    forget_expired_referrers(key)
    return redis.call('EXISTS', named('referrers', key)) == 1
end
"""

# A script that starts with `#!lua` is refused as a whole when memory is over the limit, before it has written anything
# (https://redis.io/docs/latest/develop/programmability/lua-api/#script_flags).
# ARGV[1] is JSON, {ttl_milliseconds: number or absent, entries: [{key, references}], expected: [{key, place}]}, a place
# absent where nothing is expected;
# ARGV[2...] the values, then those that are expected, at their places.
PUT_MANY = (
    "#!lua\n"
    + COMMON
    + """
local request = cjson.decode(ARGV[1])
local expiry = request.ttl_milliseconds and now + request.ttl_milliseconds or NEVER

local in_call, missing = {}, {'missing'}
for index, entry in ipairs(request.entries) do in_call[entry.key] = ARGV[index + 1] end
for _, each in ipairs(request.expected) do
    local current = redis.call('GET', named('value', each.key))
    local wanted = each.place and ARGV[each.place] or false
    if current ~= wanted and (not current or current ~= in_call[each.key]) then return {'changed', each.key} end
end
for _, entry in ipairs(request.entries) do
    for _, reference in ipairs(entry.references) do
        if not in_call[reference] and redis.call('EXISTS', named('value', reference)) == 0 then
            table.insert(missing, reference)
        end
    end
end
if #missing > 1 then return missing end

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

-- more than a put adds, so that the expired are a small share of the order
for _, key in ipairs(redis.call('ZRANDMEMBER', ORDER, 4 * #request.entries)) do
    if redis.call('EXISTS', named('value', key)) == 0 then depart(key) end
end
for index, entry in ipairs(request.entries) do write(entry, ARGV[index + 1]) end
for _, entry in ipairs(request.entries) do keep_references(entry.key, entry.expiry) end
return {}
"""
)

# ARGV[1] is JSON, {ttl_milliseconds: number or absent}; ARGV[2...] the keys. It needs next to no memory.
TOUCH = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + """
local request = cjson.decode(ARGV[1])
local wanted = request.ttl_milliseconds and now + request.ttl_milliseconds or NEVER
local found = {}
for index = 2, #ARGV do
    local key = ARGV[index]
    local name = named('value', key)
    local is_there = redis.call('EXISTS', name) == 1
    table.insert(found, is_there and 1 or 0)
    if is_there then
        local expiry = later(wanted, name)
        expire(name, expiry)
        expire(named('references', key), expiry)
        if redis.call('ZSCORE', ORDER, key) then expire(ORDER, later(expiry, ORDER)) end
        keep_references(key, expiry)
    end
end
return found
"""
)

# ARGV are the keys.
EXIST = (
    "#!lua flags=no-writes\n"
    + COMMON
    + """
local found = {}
for index, key in ipairs(ARGV) do found[index] = redis.call('EXISTS', named('value', key)) end
return found
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
    depart(key)
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
    local place = redis.call('GET', named('place', ARGV[2]))
    if not rank and not place then return false end
    start = rank and rank + 1 or redis.call('ZCOUNT', ORDER, place, '+inf')
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
