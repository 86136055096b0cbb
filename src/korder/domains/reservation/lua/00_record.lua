-- The request record, 75 bytes, shared by every function of this library
-- (the same layout as korder/domains/reservation/record.py):
--   1-16 reservation id, 17-32 member id, 33-48 ticket type id, 49-64 idempotency key digest,
--   65-72 request fingerprint, 73-74 quantity (big-endian), 75 flags (bit 0: has a key,
--   bit 1: was accepted by an earlier generation of the gate)
local RECORD = 75

local function quantity_at(blob, at)
  local high, low = string.byte(blob, at + 73, at + 74)
  return high * 256 + low
end

-- HMGET in slices: Lua's unpack is bounded by its C stack.
local function hmget(key, names)
  local found = {}
  for first = 1, #names, 2000 do
    local last = math.min(first + 1999, #names)
    local part = server.call('HMGET', key, unpack(names, first, last))
    for i = 1, #part do found[first + i - 1] = part[i] end
  end
  return found
end

local function hset(key, pairs_flat)
  for first = 1, #pairs_flat, 2000 do
    local last = math.min(first + 1999, #pairs_flat)
    server.call('HSET', key, unpack(pairs_flat, first, last))
  end
end

local function hdel(key, names)
  for first = 1, #names, 2000 do
    server.call('HDEL', key, unpack(names, first, math.min(first + 1999, #names)))
  end
end
