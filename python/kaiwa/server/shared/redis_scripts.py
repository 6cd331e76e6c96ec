"""Scripts that Redis runs, each as one step that nothing else can come between.

They are Lua, and take the time from Redis, so that all servers count by one clock. Times and
lengths of time are in milliseconds.
"""

from __future__ import annotations

#: Writes something and removes it again, so that a Redis that answers and takes no writes (a
#: read-only replica, one without memory or disk) is found out.
#:
#: KEYS: a key that nothing else uses. Gives the time as `{seconds, microseconds}`.
PROBE = """
redis.call('SET', KEYS[1], '1')
redis.call('DEL', KEYS[1])
return redis.call('TIME')
"""

#: Marks a token as used.
#:
#: KEYS: the mark. ARGV: when the token ends.
#: Gives 1; or 0 if it was marked before, or has ended.
USE = """
local moment = redis.call('TIME')
local now = moment[1] * 1000 + math.floor(moment[2] / 1000)
local life = tonumber(ARGV[1]) - now
if life <= 0 or not redis.call('SET', KEYS[1], '1', 'NX', 'PX', life) then
  return 0
end
return 1
"""

#: Counts a connection of a key and a lease of its conversation, if the key has room for both.
#:
#: KEYS: the key's leases by their end; its connections by their time.
#: ARGV: name of the lease; its life; 1 if this conversation is counted already; most
#: conversations at once (-1: any number); most connections in the window (-1: any number); length
#: of the window; a name for the connection.
#: Gives `{"in", 0}`, or the limit that was reached (`concurrency`, `rate`) and the milliseconds
#: after which another attempt makes sense; then nothing was counted.
ENTER = """
local moment = redis.call('TIME')
local now = moment[1] * 1000 + math.floor(moment[2] / 1000)
local live, rate = KEYS[1], KEYS[2]
local lease, life, counted = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local concurrency, per_minute = tonumber(ARGV[4]), tonumber(ARGV[5])
local window, connection = tonumber(ARGV[6]), ARGV[7]
if per_minute >= 0 then
  redis.call('ZREMRANGEBYSCORE', rate, '-inf', now - window)
  local count = redis.call('ZCARD', rate)
  if count >= per_minute then
    local at = count - per_minute
    local free = redis.call('ZRANGE', rate, at, at, 'WITHSCORES')[2] + window
    return {'rate', math.ceil(free - now)}
  end
end
redis.call('ZREMRANGEBYSCORE', live, '-inf', now)
if not counted and concurrency >= 0 and redis.call('ZCARD', live) >= concurrency then
  return {'concurrency', 5000}
end
if per_minute >= 0 then
  redis.call('ZADD', rate, now, connection)
  redis.call('PEXPIRE', rate, window)
end
redis.call('ZADD', live, now + life, lease)
redis.call('PEXPIRE', live, life)
return {'in', 0}
"""

#: Makes leases of a key live for their full time again.
#:
#: KEYS: the key's leases. ARGV: life of a lease; names of the leases.
RENEW = """
local moment = redis.call('TIME')
local now = moment[1] * 1000 + math.floor(moment[2] / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
