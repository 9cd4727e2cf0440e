-- wrk's request and its report. Environment: BENCH_MODEL, BENCH_KEY, BENCH_STREAM ("1" for a stream).
local streamed = os.getenv("BENCH_STREAM") == "1"
local stream = streamed and '"stream":true,"stream_options":{"include_usage":true},' or ""

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. (os.getenv("BENCH_KEY") or "sk-bench")
wrk.body = '{"model":"' .. (os.getenv("BENCH_MODEL") or "fake") .. '",' .. stream
  .. '"messages":[{"role":"system","content":"You are a helpful assistant."},'
  .. '{"role":"user","content":"Say hello to the world, please, in one sentence."}],"max_tokens":64}'

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"calls":%d,"microseconds":%d,"bytes":%d,"not_200":%d,"socket_errors":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
