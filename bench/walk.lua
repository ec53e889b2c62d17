-- Walks wrk through a file of request bodies, one a line, and counts answers that are not the expected ones.
-- wrk -s walk.lua URL -- BODIES STATUS
local threads, bodies = {}, {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("offset", #threads)
end

function init(args)
  expected, unexpected, at = tonumber(args[2]), 0, offset * 1000
  local headers = { ["Content-Type"] = "application/json" }
  for line in io.lines(args[1]) do
    table.insert(bodies, wrk.format("POST", nil, headers, line))
  end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function response(status)
  if status ~= expected then unexpected = unexpected + 1 end
end

function done(summary, latency)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do errors = errors + thread:get("unexpected") end
  io.write(string.format('\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors))
end
