-- What was written anew takes the place of what was held, whole and at once.
--
-- KEYS[1]  the symbol's sorted set
-- KEYS[2]  what was written for it anew; where that is nothing, nothing is held
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[1])
else
  redis.call('DEL', KEYS[1])
end
