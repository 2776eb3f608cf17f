-- A script for wrk: sends the JSON documents of a file (one a line) in turn as POST requests, and
-- prints the figures as one line of JSON.
--     wrk --script closed_loop.lua [OPTIONS] URL -- BODIES

local requests, last = {}, 0

function init(args)
   local headers = { ["Content-Type"] = "application/json", ["Accept"] = "application/json" }
   for body in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
   end
end

function request()
   last = last % #requests + 1
   return requests[last]
end

function done(summary, latency)
   local errors = summary.errors
   local broken = errors.connect + errors.read + errors.write + errors.timeout
   print(string.format(
      '{"seconds": %f, "replies": %d, "errors": %d, "broken": %d, "p50": %f, "p95": %f, "p99": %f}',
      summary.duration / 1e6,
      summary.requests,
      errors.status,
      broken,
      latency:percentile(50) / 1e3,
      latency:percentile(95) / 1e3,
      latency:percentile(99) / 1e3
   ))
end
