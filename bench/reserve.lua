-- wrk: POST /v1/reservations, each request by the next member and with a key of its own.
-- Environment: TOKENS (file), EVENT_ID, TICKET_TYPE_ID, KEYS ("1" or "0"), RUN (prefix of keys).
local tokens = {}
for line in io.lines(os.getenv("TOKENS")) do tokens[#tokens + 1] = line end
local body = string.format('{"event_id":"%s","ticket_type_id":"%s","quantity":1}',
  os.getenv("EVENT_ID"), os.getenv("TICKET_TYPE_ID"))
local keys, run = os.getenv("KEYS") == "1", os.getenv("RUN") or "r"
local n = 0

function request()
  n = n + 1
  local key = keys and ("Idempotency-Key: " .. run .. "-" .. n .. "\r\n") or ""
  return "POST /v1/reservations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    .. key .. "Authorization: Bearer " .. tokens[n % #tokens + 1]
    .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end
