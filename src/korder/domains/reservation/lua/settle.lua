-- settle: acknowledge processed stream entries, give back what PostgreSQL refused, answer.
--
-- KEYS  1 meta hash, 2 stock hash, 3 allowance hash, 4 idempotency hash of this period,
--       5 of the next one, which an API process whose clock is ahead has begun already,
--       6 stream, 7... reply lists
-- ARGV  1 consumer group, 2 life of the idempotency hash in seconds, 3 number of entries E,
--       then per entry: its id, its number of requests,
--         what to give back (34 bytes each: member id, ticket type id, quantity);
--       then the number of idempotency values V and V times (digest, value);
--       then for each reply list in KEYS its verdicts (41 bytes each).
-- Returns how many entries were acknowledged for the first time. Only those give anything back,
-- so that a second settlement of an entry moves no stock.
local function settle(keys, args)
  local meta, stock_key, allowance_key = keys[1], keys[2], keys[3]
  local idem_key, idem_next_key, stream_key = keys[4], keys[5], keys[6]
  local at, first, settled = 4, 0, 0
  for _ = 1, tonumber(args[3]) do
    local id, requests, back = args[at], tonumber(args[at + 1]), args[at + 2]
    at = at + 3
    if server.call('XACK', stream_key, args[1], id) == 1 then
      first = first + 1
      settled = settled + requests
      for start = 0, #back - 1, 34 do
        local high, low = string.byte(back, start + 33, start + 34)
        local quantity, tt = high * 256 + low, string.sub(back, start + 17, start + 32)
        local holder = string.sub(back, start + 1, start + 32)
        server.call('HINCRBY', stock_key, tt, quantity)
        local used = tonumber(server.call('HGET', allowance_key, holder) or 0)
        if used > quantity then
          server.call('HSET', allowance_key, holder, used - quantity)
        elseif used > 0 then
          server.call('HDEL', allowance_key, holder)
        end
      end
    end
    server.call('XDEL', stream_key, id)
  end
  if settled > 0 then
    local pending = tonumber(server.call('HGET', meta, 'pending') or 0)
    server.call('HSET', meta, 'pending', math.max(0, pending - settled))
  end
  local values = tonumber(args[at])
  at = at + 1
  if values > 0 then
    local flat = {}
    for i = 1, values * 2 do flat[i] = args[at + i - 1] end
    at = at + values * 2
    hset(idem_key, flat)
    server.call('EXPIRE', idem_key, args[2], 'NX')
    if server.call('EXISTS', idem_next_key) == 1 then hset(idem_next_key, flat) end
  end
  for i = 7, #keys do
    server.call('RPUSH', keys[i], args[at + i - 7])
    -- An API process that died never reads its list: let it go by itself.
    server.call('EXPIRE', keys[i], 60)
  end
  return first
end

server.register_function('korder_settle', settle)
