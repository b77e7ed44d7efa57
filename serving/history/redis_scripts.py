"""What the Redis history store runs inside Redis, in Lua; each script is one step to all others.

Under a policy that drops keys any of them may be missing alone, and nothing here fails for that.
"""

import json
from collections.abc import Sequence
from typing import Any

from features.durations import DAY_S

PREFIX = "watchnext:"
# Version 1 of a row: the columns of KINDS in their order. A later version may append columns
# without a new number, since what a reader does not know at the end it leaves alone.
ROW_VERSION = 1
KEPT_HOURS_S = 9 * DAY_S


def packed_row(values: Sequence[Any]) -> str:
    """Returns a row as JSON, without nulls at its end: earlier servers wrote none there."""
    length = max((place for place, v in enumerate(values, 1) if v is not None), default=0)
    return json.dumps([ROW_VERSION, *values[:length]], allow_nan=False)


# Arguments of what writes begin with: prefix, the id of the filling that the caller knows (or
# nothing), a new version. Where that filling is gone nothing is written, and its id, or that of
# another one, is all that is returned; a store that has none yet gets one.
_IN_A_FILLING = """
local prefix, version = ARGV[1], ARGV[3]
local filled = redis.call('GET', prefix .. 'filled') or ''
if filled == '' and ARGV[2] ~= '' and redis.call('EXISTS', prefix .. 'met') == 1 then
  filled = ARGV[2]  -- It alone was dropped.
  redis.call('SET', prefix .. 'filled', filled)
end
if ARGV[2] ~= '' and ARGV[2] ~= filled then return {filled} end
if filled == '' then
  filled = version
  redis.call('SET', prefix .. 'filled', filled)
end
"""

# Further arguments: events to keep, slack, seconds that hourly counts are kept, then one JSON
# object per user. Returns the id of the filling, how many events are new, and the ids of new users.
APPEND = (
    _IN_A_FILLING
    + """
local kept, slack = tonumber(ARGV[4]), tonumber(ARGV[5])
local accepted, met = 0, {}
-- Above all that were ever given, should the counter have been dropped: the time in microseconds.
if redis.call('EXISTS', prefix .. 'arrivals') == 0 then
  local time = redis.call('TIME')
  redis.call('SET', prefix .. 'arrivals', time[1] .. string.format('%06d', time[2]))
end
for i = 7, #ARGV do
  local asked = cjson.decode(ARGV[i])
  local user = prefix .. 'user:' .. asked.id
  if redis.call('HSETNX', user, 'profile', asked.profile) == 1 then
    local number = redis.call('INCR', prefix .. 'met')
    redis.call('HSET', user, 'number', number, 'newest', '0', 'version', version)
    met[#met + 1] = asked.id
  end
  local touched, added = {}, 0
  for _, event in ipairs(asked.events) do
    local kind, id, time, row, hour, video = unpack(event)
    local rows = prefix .. kind .. ':' .. asked.id
    if redis.call('HSETNX', rows, id, row) == 1 then
      -- Ties in time are broken by arrival, newest last.
      local arrival = string.format('%016d:', redis.call('INCR', prefix .. 'arrivals'))
      redis.call('ZADD', prefix .. kind .. '_order:' .. asked.id, time, arrival .. id)
      touched[kind] = true
      added = added + 1
      if kind == 'watch' then
        redis.call('ZADD', prefix .. 'watchers', 'NX',
                   redis.call('HGET', user, 'number') or '0', asked.id)
        local region = cjson.decode(redis.call('HGET', user, 'profile')).region
        if type(region) ~= 'string' then region = '' end
        local counts = prefix .. 'watched:' .. hour
        redis.call('HINCRBY', counts, cjson.encode({region, video}), 1)
        redis.call('EXPIRE', counts, ARGV[6])
      end
    end
  end
  if added > 0 then
    accepted = accepted + added
    redis.call('HSET', user, 'version', version)
    if tonumber(redis.call('HGET', user, 'newest') or '0') < asked.newest then
      redis.call('HSET', user, 'newest', string.format('%d', asked.newest))
    end
    for kind, _ in pairs(touched) do
      local order = prefix .. kind .. '_order:' .. asked.id
      local excess = redis.call('ZCARD', order) - kept
      if excess > slack then
        local oldest = redis.call('ZPOPMIN', order, excess)
        for at = 1, #oldest, 2 do
          redis.call('HDEL', prefix .. kind .. ':' .. asked.id, string.sub(oldest[at], 18))
        end
      end
    end
  end
end
return {filled, accepted, unpack(met)}
"""
)

# Arguments: prefix, user id, the version that the caller has, and of each kind of event what
# the caller has: the size of the order, and its members that are the oldest and the one that
# arrived last. Returns the id of the filling (? where it alone is gone); with it nothing for an
# unknown user, the version alone where the caller has it; else version, profile, newest, blocked,
# whether rows follow which the caller lacks (1) or all (0), and for each kind the size of the
# order, the oldest member, the one that arrived last, and rows, newest first; nothing in place of
# a row that is gone.
READ = """
local prefix, id = ARGV[1], ARGV[2]
local filled = redis.call('GET', prefix .. 'filled') or ''
if filled == '' and redis.call('EXISTS', prefix .. 'met') == 1 then filled = '?' end
local head = redis.call('HMGET', prefix .. 'user:' .. id, 'version', 'profile', 'newest', 'blocked')
if not head[1] then return {filled} end
if head[1] == ARGV[3] then return {filled, head[1]} end
local kinds = {'watch', 'search', 'impression', 'click', 'feedback'}
local function order_of(kind) return prefix .. kind .. '_order:' .. id end
-- Rows are removed oldest first; a server that was restarted may have lost the last ones.
local goes_on = 1
for i, kind in ipairs(kinds) do
  local count, oldest, last = tonumber(ARGV[1 + 3 * i]), ARGV[2 + 3 * i], ARGV[3 + 3 * i]
  if count > 0 and (redis.call('ZRANGE', order_of(kind), 0, 0)[1] ~= oldest
                    or not redis.call('ZSCORE', order_of(kind), last)) then
    goes_on = 0
  end
end
local answer = {
  filled, head[1], head[2] or '{}', head[3] or '0', head[4] or '{}', goes_on
}
for i, kind in ipairs(kinds) do
  local size = redis.call('ZCARD', order_of(kind))
  local missing, last = size, ''
  if goes_on == 1 then
    missing, last = missing - tonumber(ARGV[1 + 3 * i]), ARGV[3 + 3 * i]
  end
  -- What arrived late is mostly the newest too: looking from there, all is soon found.
  local after, ids, first = string.sub(last, 1, 16), {}, 0
  local seen = {}  -- A row that was dropped and came again is in the order twice.
  while #ids < missing do
    local members = redis.call('ZREVRANGE', order_of(kind), first, first + 99)
    if #members == 0 then break end
    for _, member in ipairs(members) do
      if string.sub(member, 1, 16) > after then
        local event = string.sub(member, 18)
        if not seen[event] then ids[#ids + 1] = event end
        seen[event] = true
        if member > last then last = member end
      end
    end
    first = first + 100
  end
  local rows = {size, redis.call('ZRANGE', order_of(kind), 0, 0)[1] or '', last}
  for at = 1, #ids, 1000 do
    local part = {unpack(ids, at, math.min(at + 999, #ids))}
    for _, row in ipairs(redis.call('HMGET', prefix .. kind .. ':' .. id, unpack(part))) do
      rows[#rows + 1] = row
    end
  end
  answer[#answer + 1] = rows
end
return answer
"""

# Further arguments: user id, JSON. Returns the id of the filling, and 1 where it was written.
SET_BLOCKED = (
    _IN_A_FILLING
    + """
local user = prefix .. 'user:' .. ARGV[4]
if redis.call('HSETNX', user, 'profile', '{}') == 1 then
  redis.call('HSET', user, 'number', redis.call('INCR', prefix .. 'met'), 'newest', '0')
end
redis.call('HSET', user, 'version', version, 'blocked', ARGV[5])
return {filled, 1}
"""
)
