"""What the Redis history store runs inside Redis, in Lua; each script is one step to all others."""

# Arguments: prefix, events to keep, slack, seconds that hourly counts are kept, a new version, then
# one JSON object per user. Returns how many events are new, and the ids of new users.
APPEND = """
local prefix, kept, slack = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local accepted, met = 0, {}
for i = 6, #ARGV do
  local asked = cjson.decode(ARGV[i])
  local user = prefix .. 'user:' .. asked.id
  if redis.call('HSETNX', user, 'profile', asked.profile) == 1 then
    local number = redis.call('INCR', prefix .. 'met')
    redis.call('HSET', user, 'number', number, 'newest', '0', 'version', ARGV[5])
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
                   redis.call('HGET', user, 'number'), asked.id)
        local region = cjson.decode(redis.call('HGET', user, 'profile')).region
        if type(region) ~= 'string' then region = '' end
        local counts = prefix .. 'watched:' .. hour
        redis.call('HINCRBY', counts, cjson.encode({region, video}), 1)
        redis.call('EXPIRE', counts, ARGV[4])
      end
    end
  end
  if added > 0 then
    accepted = accepted + added
    redis.call('HSET', user, 'version', ARGV[5])
    if tonumber(redis.call('HGET', user, 'newest')) < asked.newest then
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
return {accepted, unpack(met)}
"""

# Arguments: prefix, events to read, user id, the version that the caller has. Returns nothing for
# an unknown user, the version alone where the caller has it; else version, profile, newest,
# blocked and the rows of the four kinds, oldest first.
READ = """
local prefix, kept, id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local head = redis.call('HMGET', prefix .. 'user:' .. id, 'version', 'profile', 'newest', 'blocked')
if not head[1] then return {} end
if head[1] == ARGV[4] then return {head[1]} end
local answer = {head[1], head[2], head[3], head[4] or '{}'}
for _, kind in ipairs({'watch', 'search', 'impression', 'click'}) do
  local rows = {}
  local order = redis.call('ZRANGE', prefix .. kind .. '_order:' .. id, -kept, -1)
  for first = 1, #order, 1000 do
    local ids = {}
    for at = first, math.min(first + 999, #order) do
      ids[#ids + 1] = string.sub(order[at], 18)
    end
    for _, row in ipairs(redis.call('HMGET', prefix .. kind .. ':' .. id, unpack(ids))) do
      rows[#rows + 1] = row
    end
  end
  answer[#answer + 1] = rows
end
return answer
"""

# Arguments: prefix, a new version, user id, JSON.
SET_BLOCKED = """
local user = ARGV[1] .. 'user:' .. ARGV[3]
if redis.call('HSETNX', user, 'profile', '{}') == 1 then
  redis.call('HSET', user, 'number', redis.call('INCR', ARGV[1] .. 'met'), 'newest', '0')
end
redis.call('HSET', user, 'version', ARGV[2], 'blocked', ARGV[4])
"""
