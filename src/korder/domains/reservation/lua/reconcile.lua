-- reconcile: stock := what PostgreSQL has left - what the stream has still to bring to it.
--
-- KEYS  1 meta hash, 2 stock hash, 3 limit hash, 4 stream
-- ARGV  1 '1' when the list below is every ticket type of the shard, else '0',
--       2 generation to open the gate with, or '' to leave it as it is, 3 run id of the server,
--       then triples: ticket type id, tickets left in PostgreSQL, limit per member (0: none)
-- Returns {number of ticket types whose stock was off, requests pending}.
-- Exact under load: only the caller, the shard's one worker, moves the stream into PostgreSQL.
local function reconcile(keys, args)
  local meta, stock_key, limit_key, stream_key = keys[1], keys[2], keys[3], keys[4]
  local waiting, pending = {}, 0
  for _, entry in ipairs(server.call('XRANGE', stream_key, '-', '+')) do
    local blob = entry[2][2]
    for start = 0, #blob - 1, RECORD do
      local tt = string.sub(blob, start + 33, start + 48)
      waiting[tt] = (waiting[tt] or 0) + quantity_at(blob, start)
      pending = pending + 1
    end
  end
  if args[1] == '1' then
    server.call('DEL', stock_key, limit_key)
  end
  local drifted = 0
  for i = 4, #args, 3 do
    local tt = args[i]
    local right = tonumber(args[i + 1]) - (waiting[tt] or 0)
    if args[1] ~= '1' then
      local was = server.call('HGET', stock_key, tt)
      if was and tonumber(was) ~= right then drifted = drifted + 1 end
    end
    server.call('HSET', stock_key, tt, right)
    server.call('HSET', limit_key, tt, args[i + 2])
  end
  if args[2] ~= '' then
    server.call('HSET', meta, 'generation', args[2], 'run', args[3])
  end
  if server.call('EXISTS', meta) == 1 then server.call('HSET', meta, 'pending', pending) end
  return {drifted, pending}
end

server.register_function('korder_reconcile', reconcile)
