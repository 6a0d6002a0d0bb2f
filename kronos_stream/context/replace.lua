-- A context that is written anew, aside, takes the place of the one that is held, whole and at once.
--
-- KEYS[1]  the symbol's sorted set
-- KEYS[2]  what is written anew; without it only what tells KEYS[1] from another state is answered
-- ARGV     that answer of the beginning, prev_open_time of the first bar written anew ('' = none),
--          for_ms (a symbol of which nothing is appended for so long is forgotten)
-- Answer   1, or 0 where KEYS[1] has changed: it is somebody else's by now
local held, anew = KEYS[1], KEYS[2]
local state = redis.sha1hex(table.concat(redis.call('ZRANGE', held, 0, -1)))
if not anew then return state end
if ARGV[1] ~= state then return 0 end
local prev = ARGV[2]
if prev ~= '' and redis.call('ZCOUNT', held, prev, prev) > 0 then
  -- What is held reaches up to the first bar written, and perhaps further back than the topic.
  local first = redis.call('ZRANGE', anew, 0, 0, 'WITHSCORES')[2]
  local older = redis.call('ZRANGEBYSCORE', held, '-inf', first and '(' .. first or '+inf', 'WITHSCORES')
  for i = 1, #older, 2 do redis.call('ZADD', anew, older[i + 1], older[i]) end
end
if redis.call('EXISTS', anew) == 1 then
  redis.call('RENAME', anew, held)
  redis.call('PEXPIRE', held, ARGV[3])
else
  redis.call('DEL', held)
end
return 1
