"""What Redis does in one go: scripts in Lua, each but `TELL` for one space, whose prefix is its key."""

from server.store.redis.keys import COMMON, WRITING

# A script that starts with `#!lua` is refused as a whole when memory is over the limit, before it has written anything
# (https://redis.io/docs/latest/develop/programmability/lua-api/#script_flags).
# ARGV[1] is JSON, {ttl_milliseconds: number or absent, entries: [{key, references, is_pinned}],
# expected: [{key, place}], max_bytes: number or absent}, a place absent where nothing is expected;
# ARGV[2...] the values, then those that are expected, at their places.
# The answer is what was wrong, or 'stored' and the bytes that the space then has.
PUT_MANY = (
    "#!lua\n"
    + COMMON
    + WRITING
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

-- how many bytes the space would have, and whether those are more than it has
local function grown()
    local size = 0
    for index, entry in ipairs(request.entries) do
        size = size + #ARGV[index + 1] - tonumber(redis.call('HGET', SIZES, entry.key) or 0)
    end
    return tonumber(redis.call('GET', BYTES) or 0) + size, size > 0
end
if request.max_bytes then
    local size, is_more = grown()
    while is_more and size > request.max_bytes do
        if sweep(1000) == 0 then return {'quota', string.format('%.0f', size)} end
        size, is_more = grown()
    end
end

local function write(entry, value)
    local name = named('value', entry.key)
    entry.expiry = later(expiry, name)
    if #entry.references == 0 or redis.call('EXISTS', name) == 0 then redis.call('ZREM', ORDER, entry.key) end
    if #entry.references > 0 then
        redis.call('ZADD', ORDER, 'NX', time[1] * 1000000 + time[2], entry.key)
    end
    redis.call('SET', name, value)
    count(entry.key, #value)
    if #entry.references > 0 and not entry.is_pinned then
        redis.call('ZADD', USED, now, entry.key)
    else
        redis.call('ZREM', USED, entry.key)
    end
    local references = named('references', entry.key)
    for _, reference in ipairs(redis.call('SMEMBERS', references)) do
        redis.call('ZREM', named('referrers', reference), entry.key)
    end
    redis.call('DEL', references)
    for _, reference in ipairs(entry.references) do redis.call('SADD', references, reference) end
    expire_entry(entry.key, entry.expiry)
end

-- more than a put adds, so that the expired are a small share of the books
sweep(64 + 4 * #request.entries)
local books_expiry = later(expiry, SIZES)
for index, entry in ipairs(request.entries) do
    write(entry, ARGV[index + 1])
    books_expiry = math.max(books_expiry, entry.expiry)
end
for _, entry in ipairs(request.entries) do keep_references(entry.key, entry.expiry) end
expire_books(books_expiry)
return {'stored', redis.call('GET', BYTES) or '0'}
"""
)

# ARGV[1] is JSON, {ttl_milliseconds: number or absent}; ARGV[2...] the keys. It needs next to no memory.
TOUCH = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + WRITING
    + """
local request = cjson.decode(ARGV[1])
local wanted = request.ttl_milliseconds and now + request.ttl_milliseconds or NEVER
local books_expiry = later(wanted, SIZES)
local found = {}
for index = 2, #ARGV do
    local key = ARGV[index]
    local name = named('value', key)
    local is_there = redis.call('EXISTS', name) == 1
    table.insert(found, is_there and 1 or 0)
    if is_there then
        local expiry = later(wanted, name)
        expire_entry(key, expiry)
        if redis.call('ZSCORE', USED, key) then redis.call('ZADD', USED, now, key) end
        keep_references(key, expiry)
        expire_books(books_expiry)
    end
end
return found
"""
)

# ARGV are keys that were used just now.
USE = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + """
for _, key in ipairs(ARGV) do
    if redis.call('ZSCORE', USED, key) then redis.call('ZADD', USED, now, key) end
end
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

# ARGV[1] is GET or STRLEN, ARGV[2] the key; with the milliseconds that it has to live, as PTTL has them.
FIND = (
    "#!lua flags=no-writes\n"
    + COMMON
    + """
local name = named('value', ARGV[2])
return {redis.call(ARGV[1], name), redis.call('PTTL', name)}
"""
)

# ARGV are the keys. Of each the value, the milliseconds as PTTL has them, whether it may go, what it references.
READ = (
    "#!lua flags=no-writes\n"
    + COMMON
    + """
local found = {}
for index, key in ipairs(ARGV) do
    local name = named('value', key)
    local may_go = redis.call('ZSCORE', USED, key) and 1 or 0
    found[index] = {redis.call('GET', name), redis.call('PTTL', name), may_go,
        redis.call('SMEMBERS', named('references', key))}
end
return found
"""
)

# Removing must work when memory is full, hence the flag. ARGV[1] is the key. The answer has the bytes
# of the space, too.
DELETE = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + WRITING
    + """
if redis.call('EXISTS', named('value', ARGV[1])) == 0 then return {'absent'} end
if is_referenced(ARGV[1]) then return {'referenced'} end
remove(ARGV[1], {})
return {'removed', redis.call('GET', BYTES) or '0'}
"""
)

# Takes off the books what has expired, so many at most. ARGV[1] is how many. The answer is how many there were, and
# how many bytes the space has.
SWEEP = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + WRITING
    + """
local num_swept = sweep(tonumber(ARGV[1]))
return {num_swept, redis.call('GET', BYTES) or '0'}
"""
)

# Notes how many bytes a space has; the answer is how many all have. KEYS[1] is the hash of spaces, ARGV[1] the name of
# one, ARGV[2] its bytes.
TELL = """#!lua flags=allow-oom
if ARGV[2] == '0' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local total = 0
for _, size in ipairs(redis.call('HVALS', KEYS[1])) do total = total + size end
return total
"""

# Removes documents that may go, the least recently used first. ARGV[1] is how many bytes are wanted, ARGV[2] the score
# up to which it goes, ARGV[3...] entries that stay. The answer is how many were removed, how many bytes the space has,
# and the score of the next, or -1.
EVICT = (
    "#!lua flags=allow-oom\n"
    + COMMON
    + WRITING
    + """
local kept = {}
for index = 3, #ARGV do kept[ARGV[index]] = true end
local function bytes() return tonumber(redis.call('GET', BYTES) or '0') end
local aim, num_removed = bytes() - tonumber(ARGV[1]), 0
local num_skipped = 0
while bytes() > aim do
    local key = redis.call('ZRANGEBYSCORE', USED, '-inf', ARGV[2], 'LIMIT', num_skipped, 1)[1]
    if not key then break end
    if redis.call('EXISTS', named('value', key)) == 0 then
        depart(key)
    elseif kept[key] or is_referenced(key) then
        num_skipped = num_skipped + 1
    else
        remove(key, kept)
        num_removed = num_removed + 1
    end
end
local next_one = redis.call('ZRANGEBYSCORE', USED, '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {num_removed, bytes(), next_one[2] or '-1'}
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
