-- credit: members get back the allowance of tickets that they released.
--
-- KEYS  1 allowance hash
-- ARGV  1 records of 34 bytes: member id, ticket type id, quantity (big-endian)
-- Returns how many counters changed. Applied twice it lets a member ask for too much, which
-- PostgreSQL refuses; it never goes below zero.
local function credit(keys, args)
  local blob, changed = args[1], 0
  for start = 0, #blob - 1, 34 do
    local holder = string.sub(blob, start + 1, start + 32)
    local high, low = string.byte(blob, start + 33, start + 34)
    local used = tonumber(server.call('HGET', keys[1], holder) or 0)
    if used > 0 then
      changed = changed + 1
      local left = used - (high * 256 + low)
      if left > 0 then
        server.call('HSET', keys[1], holder, left)
      else
        server.call('HDEL', keys[1], holder)
      end
    end
  end
  return changed
end

server.register_function('korder_credit', credit)
