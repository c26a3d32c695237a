-- One commit of one partition. KEYS: meta, profiles and, where the commit announces, announced.
-- ARGV: owner, expected commit id, commit id, next offset, state, outbox, 1 to clear, 1 to keep what follows of erased customers, that,
-- 1 to keep what follows of customers who were merged, that, count of customers, lengths, blob, then announced names and values.
-- A commit that clears deletes every profile first.
-- `lengths` has two little-endian uint32 a customer (id, profile); `blob` is every id, then every profile. A profile of length 0 is deleted.
-- Law: all checks come first, and after the first write nothing can fail. A script that fails keeps what it wrote. Redis decides whether it
-- is out of memory when a script starts and refuses the first write that takes memory, so the first write here is one.
-- Returns 0 applied, 1 another owner, 2 another commit.

for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'hash' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind)
  end
end
local stored = redis.call('HMGET', KEYS[1], 'owner', 'commit_id')
if (stored[1] or '') ~= ARGV[1] then
  return 1
end
local commit_id = stored[2] or ''
if commit_id ~= ARGV[2] then
  return 2
end

local count = tonumber(ARGV[12])
local lengths, blob = ARGV[13], ARGV[14]
local ids_bytes = 0
local total = 0
local chunk = 1000
local sizes = {}
for first = 0, count - 1, chunk do
  local n = math.min(chunk, count - first)
  local numbers = {struct.unpack('<' .. string.rep('I4', 2 * n), lengths, 8 * first + 1)}
  for i = 1, 2 * n, 2 do
    ids_bytes = ids_bytes + numbers[i]
    total = total + numbers[i] + numbers[i + 1]
  end
  sizes[#sizes + 1] = numbers
end
if #lengths ~= 8 * count or #blob ~= total or (#ARGV > 14 and #KEYS < 3) then
  return redis.error_reply('ERR lengths and bytes of the commit disagree')
end

redis.call('HSET', KEYS[1], 'commit_id', ARGV[3], 'previous_commit_id', commit_id, 'next_offset', ARGV[4], 'state', ARGV[5], 'outbox', ARGV[6],
  'claims', '0')
if ARGV[8] == '1' then
  redis.call('HSET', KEYS[1], 'erased', ARGV[9])
end
if ARGV[10] == '1' then
  redis.call('HSET', KEYS[1], 'redirects', ARGV[11])
end
if ARGV[7] == '1' then
  redis.call('UNLINK', KEYS[2])
end
local sub = string.sub
local id_at, value_at = 1, ids_bytes + 1
for _, numbers in ipairs(sizes) do
  local set, sets, gone, goners = {}, 0, {}, 0
  for i = 1, #numbers - 1, 2 do
    local id_end, size = id_at + numbers[i], numbers[i + 1]
    if size > 0 then
      set[sets + 1] = sub(blob, id_at, id_end - 1)
      set[sets + 2] = sub(blob, value_at, value_at + size - 1)
      sets = sets + 2
      value_at = value_at + size
    else
      goners = goners + 1
      gone[goners] = sub(blob, id_at, id_end - 1)
    end
    id_at = id_end
  end
  if sets > 0 then
    redis.call('HSET', KEYS[2], unpack(set, 1, sets))
  end
  if goners > 0 then
    redis.call('HDEL', KEYS[2], unpack(gone, 1, goners))
  end
end
for i = 15, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
return 0
