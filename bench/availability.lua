-- wrk: GET the availability of EVENT_ID.
local path = "/v1/events/" .. os.getenv("EVENT_ID") .. "/availability"

function request()
  return "GET " .. path .. " HTTP/1.1\r\nHost: localhost\r\n\r\n"
end
