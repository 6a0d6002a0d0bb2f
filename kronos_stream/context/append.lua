-- Insert one bar, answer the window up to it, trim: one round trip, atomic.
--
-- KEYS[1]  sorted set: score = open time, member = revision u32 | offset u64 | flags u8 | values
-- ARGV     open_time, revision u32, offset u64, body (flags and values),
--          prev_open_time ('' = the symbol's first bar made from ticks), want,
--          keep (bars; 0 = more follow at once, the last of which trims), for_ms (a symbol of
--          which nothing is appended for so long is forgotten)
-- Answer   {status, rows}: rows is one string of open time u64 | member for each bar, oldest first
--
-- Offsets are compared as numbers: Lua compares strings by the server's locale.
local key, open_time = KEYS[1], ARGV[1]
local revision, offset, body, prev = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local want, keep, for_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local HISTORY, FIRST = 4, string.char(0, 0, 0, 0)

local function offset_of(member) return (struct.unpack('>I8', string.sub(member, 5, 12))) end
local function is_history(tail) return string.byte(tail, 1) % (2 * HISTORY) >= HISTORY end

local history = is_history(body)
local reach = struct.unpack('>I8', offset)
local before = redis.call('ZREVRANGEBYSCORE', key, '(' .. open_time, '-inf',
  'WITHSCORES', 'LIMIT', 0, 1)
local status, insert = 'applied', true

if history and before[1] and not is_history(string.sub(before[1], 13)) then
  -- History only reaches up to the first bar made from ticks.
  status, insert = 'duplicate', false
end
for _, held in ipairs(redis.call('ZRANGEBYSCORE', key, open_time, open_time)) do
  local held_body = string.sub(held, 13)
  if history ~= is_history(held_body) then
    -- Where both exist, the bar made from ticks stands.
    if history then
      status, insert = 'duplicate', false
    else
      redis.call('ZREM', key, held)
    end
  elseif string.sub(held, 1, 4) == revision then
    status, insert = held_body == body and 'duplicate' or 'conflict', false
    -- A record may be repeated: the first one counts, in whichever order we read them.
    if offset_of(held) <= reach then
      reach = offset_of(held)
    else
      redis.call('ZREM', key, held)
      insert = true
    end
  end
end
if not history and redis.call('ZCOUNT', key, open_time, open_time) == 0
    and (revision ~= FIRST or prev ~= '' and not before[1] and redis.call('ZCARD', key) > 0) then
  -- A correction of a bar that is not held, or a bar before all that are (a repeated record, a group
  -- that was set back): it would hide a hole.
  insert = false
end
if insert then redis.call('ZADD', key, open_time, revision .. offset .. body) end
if not history and prev == '' and revision == FIRST then
  -- In whichever order the two were read.
  for _, held in ipairs(redis.call('ZRANGEBYSCORE', key, open_time, '+inf')) do
    if is_history(string.sub(held, 13)) then redis.call('ZREM', key, held) end
  end
end
if not history and prev ~= '' and (not before[2] or tonumber(before[2]) ~= tonumber(prev)) then
  status = 'hole'
end

-- Per open time the highest revision whose record does not stand behind this bar's own. So many
-- bars are in so many members read, the last of them of this time.
local newest_first, last, start = {}, nil, 0
local bars, members, at_last = 0, 0, nil
while #newest_first < want do
  local page = redis.call('ZREVRANGEBYSCORE', key, open_time, '-inf', 'WITHSCORES',
    'LIMIT', start, want)
  if #page == 0 then break end
  start = start + want
  for i = 1, #page, 2 do
    local member, at = page[i], page[i + 1]
    members = members + 1
    if at ~= at_last then at_last, bars = at, bars + 1 end
    if at ~= last and #newest_first < want and offset_of(member) <= reach then
      last = at
      newest_first[#newest_first + 1] = struct.pack('>I8', tonumber(at)) .. member
    end
  end
end

-- Kept are so many bars: the revisions of one are members of their own.
if keep > 0 and redis.call('ZCARD', key) > keep then
  if redis.call('ZCOUNT', key, '(' .. open_time, '+inf') > 0 then
    bars, members, at_last = 0, 0, nil
  end
  local older = redis.call('ZREVRANGE', key, members, -1, 'WITHSCORES')
  for i = 2, #older, 2 do
    if older[i] ~= at_last then
      at_last, bars = older[i], bars + 1
      if bars > keep then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', at_last)
        break
      end
    end
  end
end

if keep > 0 or redis.call('ZCARD', key) == 1 then redis.call('PEXPIRE', key, for_ms) end

local rows = {}
for i = #newest_first, 1, -1 do rows[#rows + 1] = newest_first[i] end
return {status, table.concat(rows)}
