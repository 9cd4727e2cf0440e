"""CPU time of the data path alone: no sockets, no kernel, no other process. For finding where microseconds
go.

A client's bytes are fed to a connection, the provider's bytes to its upstream connection, as the event loop
would; the journal is written for real. ``python benchmarks/hot_path.py [--profile] [--stream] [--levels N]
[--rates]``; `make bench` measures the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from upeti.core import config
from upeti.gateway import snapshot as s
from upeti.gateway.gateway import Gateway
from upeti.gateway.server import ClientConnection
from upeti.gateway.upstream import UpstreamConnection
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price

BODY = (
    b'{"model":"mock","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user",'
    b'"content":"Say hello to the world, please, in one sentence."}],"max_tokens":64%b}'
)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer sk-test\r\nContent-Length: %d\r\n\r\n"
)
ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1750000000,"model":"mock","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":25,"completion_tokens":50,"total_tokens":75,"prompt_tokens_details":{"cached_tokens":0}}}'
    % (b"word " * 40)
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_mock\r\nopenai-processing-ms: 5\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)


# From the narrowest to the widest: with N levels, the first N. The key's own limit is the first.
LEVELS = (
    BudgetTerms(name="feature", limit="1000000000", window="day", key="k1", feature="search"),
    BudgetTerms(name="project", limit="1000000000", window="month", tenant="acme", project="app"),
    BudgetTerms(name="tenant", limit="1000000000", window="month", zone="Asia/Jakarta", tenant="acme"),
    BudgetTerms(name="organisation", limit="1000000000", window="month"),
)
RATES = (
    BudgetTerms(name="rate", limit="1000000000", unit="calls", window="minute"),
    BudgetTerms(name="rate", limit="1000000000", unit="tokens", window="minute"),
)


def _event(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


_CHUNK = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"mock","choices":[{"index":0,'
    b'"delta":{"content":"word "},"finish_reason":null}],"usage":null}'
)
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + _event(_CHUNK) * 50
    + _event(b'{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":25,"completion_tokens":50,"total_tokens":75}}')
    + _event(b"[DONE]")
    + b"0\r\n\r\n"
)


class _Loop:
    """As much of an event loop as the path uses."""

    def __init__(self) -> None:
        self.ready: list[tuple[Any, tuple[Any, ...]]] = []
        self.time = time.monotonic

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.ready.append((callback, arguments))

    def turn(self) -> None:
        while self.ready:
            ready, self.ready = self.ready, []
            for callback, arguments in ready:
                callback(*arguments)


class _Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--levels", type=int, default=5, choices=range(6), help="budgets that each call is held on")
    parser.add_argument("--rates", action="store_true", help="limits of calls and tokens a minute as well")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=32, help="calls per turn of the loop")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="upeti-hot-path-"))
    (directory / "run").mkdir()
    price = Price("p1", "USD", 0, {"input": 2_500_000, "output": 10_000_000})
    channel = s.ChannelView("fake", "openai_compatible", "127.0.0.1", 9, False, "/v1")
    candidate = s.CandidateView("fake", "", 0, 1, {"*": (price,)}, 16384, 128_000)
    own = {"budgets": ("key:k1",), "limit": "1000000000"} if arguments.levels else {}
    caller = s.Caller("k1", "acme", "app", "search", **own)
    view = s.Snapshot(
        1,
        config.Gateway(),
        config.Journal(),
        {sha256(b"sk-test").digest(): caller},
        {"fake": channel},
        {"mock": s.RouteView("mock", (candidate,))},
        budgets=(*LEVELS[: max(0, arguments.levels - 1)], *(RATES if arguments.rates else ())),
    )
    s.write(directory / "run" / "snapshot.msgpack", view)
    loop: Any = _Loop()
    real_loop = asyncio.new_event_loop()
    gateway = Gateway(directory, 0, loop)
    found = gateway.view.purses.find(caller, "search", "USD", gateway.now_ns(), gateway.holds)
    for purse in (*found.purses, *found.calls, *found.tokens):
        gateway.holds.granted(purse.budget, 10**21, 0, 10**21)
    pool = gateway.view.channels["fake"].pool
    pairs = []
    for _ in range(arguments.connections):
        client, upstream = ClientConnection(gateway), UpstreamConnection(pool)
        client.connection_made(_Transport())  # type: ignore[arg-type]
        upstream.connection_made(_Transport())  # type: ignore[arg-type]
        upstream.complete = upstream.keep_alive = True
        pool.take_back(upstream)
        pairs.append((client, upstream))
    body = BODY % (b',"stream":true,"stream_options":{"include_usage":true}' if arguments.stream else b"")
    request, answer = HEAD % len(body) + body, STREAM if arguments.stream else ANSWER

    def turn() -> None:
        for client, _ in pairs:
            client.data_received(request)
        loop.turn()
        for _, upstream in pairs:
            upstream.data_received(answer)
        loop.turn()

    turn()
    if arguments.stream:
        assert b"".join(pairs[0][0]._transport.written).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    else:
        assert b"x-upeti-cost: 0.0005625\r\n" in b"".join(pairs[0][0]._transport.written)
    profile = cProfile.Profile()
    if arguments.profile:
        profile.enable()
    turns = arguments.calls // arguments.connections
    started = time.process_time()
    for _ in range(turns):
        turn()
    spent = time.process_time() - started
    profile.disable()
    print(f"{spent / (turns * arguments.connections) * 1e6:.1f} µs of CPU a call, sockets left out")
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    real_loop.close()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
