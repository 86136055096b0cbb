-- reserve: decide one micro-batch of requests, all or none of each, atomically.
--
-- KEYS  1 meta hash, 2 stock hash, 3 limit hash, 4 allowance hash,
--       5 idempotency hash of this period, 6 of the one before, 7 stream
-- ARGV  1 records (75 bytes each), 2 reply address of the API process,
--       3 bound on undecided requests, 4 life of the idempotency hash in seconds,
--       5 keys in this period's hash past which refusals are no longer remembered
-- Returns {generation or '', codes, known...}: one code per request, and for each D, in order,
--   the value kept for its key. Codes: A accepted, S sold out, L over the limit, Q queue full,
--   U ticket type not loaded, C key used for another request, D key known.
--   An empty generation means that the gate is not loaded: nothing was decided.
local function reserve(keys, args)
  local meta, stock_key, limit_key, allowance_key = keys[1], keys[2], keys[3], keys[4]
  local idem_key, idem_old_key, stream_key = keys[5], keys[6], keys[7]
  local blob, queue_max = args[1], tonumber(args[3])
  local sub, byte = string.sub, string.byte

  local state = server.call('HMGET', meta, 'generation', 'pending')
  if not state[1] then return {'', ''} end
  local pending = tonumber(state[2] or 0)

  -- One look-up per kind for the whole batch, then decisions on plain tables.
  local count = #blob / RECORD
  local digests, types, seen_type = {}, {}, {}
  for i = 0, count - 1 do
    local at = i * RECORD
    if byte(blob, at + 75) % 2 == 1 then digests[#digests + 1] = sub(blob, at + 49, at + 64) end
    local tt = sub(blob, at + 33, at + 48)
    if not seen_type[tt] then seen_type[tt] = true; types[#types + 1] = tt end
  end
  local known = {}
  if #digests > 0 then
    local now, before = hmget(idem_key, digests), nil
    if server.call('EXISTS', idem_old_key) == 1 then before = hmget(idem_old_key, digests) end
    for i = 1, #digests do known[digests[i]] = now[i] or (before and before[i]) or nil end
  end
  local stock, limit = {}, {}
  local stocks, limits = hmget(stock_key, types), hmget(limit_key, types)
  local any_limit = false
  for i = 1, #types do
    stock[types[i]] = stocks[i] and tonumber(stocks[i])
    limit[types[i]] = limits[i] and tonumber(limits[i]) or 0
    if limit[types[i]] > 0 then any_limit = true end
  end
  local allowance = {}
  if any_limit then
    local names = {}
    for i = 0, count - 1 do
      local at = i * RECORD
      if limit[sub(blob, at + 33, at + 48)] > 0 then names[#names + 1] = sub(blob, at + 17, at + 48) end
    end
    local used = hmget(allowance_key, names)
    for i = 1, #names do allowance[names[i]] = tonumber(used[i] or 0) end
  end

  local room = #digests > 0 and server.call('HLEN', idem_key) < tonumber(args[5])

  local codes, accepted, replies, written, moved, counted = {}, {}, {}, {}, {}, {}
  for i = 0, count - 1 do
    local at = i * RECORD
    local digest = byte(blob, at + 75) % 2 == 1 and sub(blob, at + 49, at + 64) or nil
    local tt, code = sub(blob, at + 33, at + 48), nil
    local value = digest and known[digest]
    -- E: its entry went to the dead letters undecided, so the key is free to try again.
    if value and sub(value, 9, 9) ~= 'E' then
      if sub(value, 1, 8) ~= sub(blob, at + 65, at + 72) then
        code = 'C'
      else
        code = 'D'
        replies[#replies + 1] = value
      end
    else
      local quantity, left, cap = quantity_at(blob, at), stock[tt], limit[tt]
      local holder = sub(blob, at + 17, at + 48)
      if not left then
        code = 'U'
      elseif byte(blob, at + 75) >= 2 then
        -- Accepted before a rebuild. It may be a reservation already, counted by the rebuild, and
        -- must not be refused because of itself: it takes nothing here, PostgreSQL decides.
        if pending < queue_max then
          code = 'A'
          pending = pending + 1
          accepted[#accepted + 1] = sub(blob, at + 1, at + RECORD)
        else
          code = 'Q'
        end
      elseif cap > 0 and allowance[holder] + quantity > cap then
        code = 'L'
      elseif left < quantity then
        code = 'S'
      elseif pending >= queue_max then
        code = 'Q'
      else
        code = 'A'
        pending = pending + 1
        stock[tt] = left - quantity
        moved[tt] = true
        if cap > 0 then
          allowance[holder] = allowance[holder] + quantity
          counted[holder] = true
        end
        accepted[#accepted + 1] = sub(blob, at + 1, at + RECORD)
      end
      -- A refusal that the next second may lift (U, Q) is not remembered, and no refusal once a
      -- crowd has filled the hash: what was accepted always is.
      if digest and code ~= 'U' and code ~= 'Q' and (room or code == 'A') then
        local mark = code == 'A' and 'P' or code
        local kept = sub(blob, at + 65, at + 72) .. mark .. sub(blob, at + 1, at + 16)
        known[digest] = kept
        written[#written + 1] = digest
        written[#written + 1] = kept
      end
    end
    codes[i + 1] = code
  end

  if #accepted > 0 then
    local flat = {}
    for tt in pairs(moved) do flat[#flat + 1] = tt; flat[#flat + 1] = stock[tt] end
    hset(stock_key, flat)
    flat = {}
    for holder in pairs(counted) do flat[#flat + 1] = holder; flat[#flat + 1] = allowance[holder] end
    if #flat > 0 then hset(allowance_key, flat) end
    server.call('HSET', meta, 'pending', pending)
    server.call('XADD', stream_key, '*', 'b', table.concat(accepted), 'a', args[2])
  end
  if #written > 0 then
    hset(idem_key, written)
    server.call('EXPIRE', idem_key, args[4], 'NX')
  end
  return {state[1], table.concat(codes), unpack(replies)}
end

server.register_function('korder_reserve', reserve)
