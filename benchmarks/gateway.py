"""What the gateway costs and carries, beside nginx and beside no gateway at all: `make bench`.

    python -m benchmarks.gateway [--quick] [--calls 1000000] [--rounds 3] [--peers-only]

Everything is on, as in production: key check, hold on five levels of budgets, price, settlement, journal,
keeper. The worker, or nginx's, has core 0; provider and load run on core 1. The three ways are measured in
turn within each round, and the median of the rounds counts, so that what else the machine does falls on all
of them. Added latency is a percentile with a gateway less the same percentile without one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, TypeVar

from benchmarks import load, machine, processes, report
from benchmarks.load import Latency, Throughput
from benchmarks.processes import EVENTS_PER_STREAM, Target
from benchmarks.report import Figure, figure

RESULT = machine.BUILD.parent / "bench.json"

Measured = TypeVar("Measured", Throughput, Latency)


@dataclass(frozen=True)
class Plan:
    """How long everything takes. The figures in the documentation come from the default plan."""

    rounds: int = 3
    seconds: int = 5
    rate_seconds: int = 10
    calls: int = 1_000_000
    open_streams: tuple[int, ...] = (1_000, 5_000)


QUICK = Plan(rounds=1, seconds=2, rate_seconds=3, calls=50_000)


def in_turn(
    targets: list[Target], rounds: int, measure: Callable[[Target], Measured], what: str
) -> dict[str, Measured]:
    """Measure every target in every round; returns each one's median, field by field."""
    found: dict[str, list[Measured]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for target in targets:
            progress(f"{what}, round {number + 1} of {rounds}: {target.name}")
            found[target.name].append(measure(target))
    return {name: _median(each) for name, each in found.items()}


def _median(of: list[Measured]) -> Measured:
    names = [field.name for field in fields(of[0])]
    return type(of[0])(*(median(getattr(each, name) for each in of) for name in names))


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def measure_calls(targets: list[Target], plan: Plan) -> Iterator[Figure]:
    got = in_turn(targets, plan.rounds, lambda target: load.throughput(target, plan.seconds), "calls")
    ours, nginx, direct = got[targets[-1].name], got["nginx"], got["direct"]
    yield figure("calls, 32 at once", "calls/s", ours.per_second, "nginx", nginx.per_second, ratio_at_least=0.5)
    yield figure("calls, 32 at once", "calls/s", ours.per_second, "direct", direct.per_second)
    yield figure("CPU of the worker", "µs/call", ours.cpu_us_per_call, "nginx", nginx.cpu_us_per_call, at_most=40)
    yield figure("CPU of the keeper", "µs/call", ours.keeper_cpu_us_per_call)


def measure_levels(five: Target, one: Target, plan: Plan) -> Iterator[Figure]:
    """What four budgets more than the key's own limit cost."""
    got = in_turn([one, five], plan.rounds, lambda target: load.throughput(target, plan.seconds), "levels of budgets")
    ours, peer = got[five.name], got[one.name]
    title = "calls on five levels of budgets"
    yield figure(title, "calls/s", ours.per_second, at_least=8000)
    yield figure(title, "calls/s", ours.per_second, "one level", peer.per_second, ratio_at_least=0.85)
    yield figure("CPU of the worker, five levels", "µs/call", ours.cpu_us_per_call, "one level", peer.cpu_us_per_call)


def measure_latency(targets: list[Target], plan: Plan) -> Iterator[Figure]:
    for title, rate, connections, seconds in (
        ("1 connection", 0, 1, plan.seconds),
        ("1,000 calls/s", 1000, 64, plan.rate_seconds),
    ):

        def measure(
            target: Target, rate: int = rate, connections: int = connections, seconds: int = seconds
        ) -> Latency:
            return load.latency(target, rate=rate, seconds=seconds, connections=connections)

        got = in_turn(targets, plan.rounds, measure, f"latency at {title}")
        ours, nginx, direct = got[targets[-1].name], got["nginx"], got["direct"]
        for name, short in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
            base = getattr(direct, name)
            aim = 1000 if rate and name == "p99" else None
            yield figure(
                f"added latency {short}, {title}",
                "µs",
                getattr(ours, name) - base,
                "nginx",
                getattr(nginx, name) - base,
                at_most=aim,
            )
        yield figure(f"latency p50, {title}", "µs", ours.p50, "direct", direct.p50)


def measure_streams(targets: list[Target], plan: Plan) -> Iterator[Figure]:
    for title, model in (("in one write", "fake"), ("one by one", "fake-each")):

        def measure(target: Target, model: str = model) -> Throughput:
            return load.streams(target, plan.seconds, model=model)

        got = in_turn(targets, plan.rounds, measure, f"streams, chunks {title}")
        ours, nginx, direct = got[targets[-1].name], got["nginx"], got["direct"]
        name = f"streams, {EVENTS_PER_STREAM} chunks {title}"
        yield figure(name, "streams/s", ours.per_second, "nginx", nginx.per_second, ratio_at_least=0.8)
        yield figure(name, "streams/s", ours.per_second, "direct", direct.per_second)
        chunks = (ours.per_second * EVENTS_PER_STREAM, nginx.per_second * EVENTS_PER_STREAM)
        yield figure(name, "chunks/s", chunks[0], "nginx", chunks[1])
        yield figure(f"CPU, {title}", "µs/stream", ours.cpu_us_per_call, "nginx", nginx.cpu_us_per_call)


def measure_first_byte(targets: list[Target], plan: Plan) -> Iterator[Figure]:
    def measure(target: Target) -> Latency:
        return load.latency(target, rate=200, seconds=plan.rate_seconds, connections=64, streamed=True)

    got = in_turn(targets, plan.rounds, measure, "time to first byte at 200 streams/s")
    ours, nginx, direct = got[targets[-1].name], got["nginx"], got["direct"]
    for name, short in (("first_byte_p50", "p50"), ("first_byte_p99", "p99")):
        base = getattr(direct, name)
        title = f"added time to first byte {short}, 200 streams/s"
        yield figure(title, "µs", getattr(ours, name) - base, "nginx", getattr(nginx, name) - base)


def measure_memory_of_calls(ours: Target, plan: Plan) -> Iterator[Figure]:
    """Memory before and after many calls: it is to be flat."""
    done = load.throughput(ours, plan.seconds).calls  # warm
    before_kb = machine.rss_kb(ours.pid)
    while done < plan.calls:
        progress(f"memory over {plan.calls:,} calls: {done:,} so far")
        done += load.throughput(ours, 10 if plan.calls > 200_000 else 2).calls
    after_kb = machine.rss_kb(ours.pid)
    yield figure(
        f"memory after {plan.calls:,} calls", "MB", after_kb / 1024, "when warm", before_kb / 1024, at_most=300
    )


def measure_open_streams(with_gateway: list[Target], plan: Plan) -> Iterator[Figure]:
    """Memory of a worker while many slow streams are open at once; every one of them must end well."""
    for count in plan.open_streams:
        held = {}
        for target in with_gateway:
            progress(f"{count:,} open streams: {target.name}")
            held[target.name] = hold_streams(target, count)
        ours = held[with_gateway[-1].name]
        aim = 300 if count == 5_000 else None
        title = f"memory at {count:,} open streams"
        yield figure(title, "MB", ours / 1024, "nginx", held["nginx"] / 1024, at_most=aim)


def hold_streams(target: Target, count: int) -> int:
    """Open ``count`` streams of 20 s within 5 s; returns the most memory that the worker had, in kibibytes."""
    seconds = max(1, count // 1000)
    command = load.rate_client_command(
        target,
        rate=count // seconds,
        seconds=seconds,
        connections=count,
        streamed=True,
        model="fake-slow",
        grace=120,
        warm_up=0,
    )
    pinned = ["taskset", "-c", str(machine.OTHER_CORE), *command]
    client = subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True)
    most_kb = 0
    while client.poll() is None:
        most_kb = max(most_kb, machine.rss_kb(target.pid))
        time.sleep(0.25)
    assert client.stdout is not None
    told: dict[str, Any] = json.loads(client.stdout.read())
    client.stdout.close()
    if told["errors"] or told["busy_max"] < count:
        raise machine.UnfitError(f"{target.name}: of {count} streams at once: {told}")
    return most_kb


def run(plan: Plan, *, peers_only: bool) -> list[Figure]:
    """Measure everything. With ``peers_only`` nginx stands in our place: it shows what the machine can do."""
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        # 20 s to a slow stream: 50 events, 400 ms apart.
        port = stack.enter_context(processes.provider(first_byte_ms=50, between_ms=400))
        targets = [Target("direct", port, port), stack.enter_context(processes.nginx(port))]
        if not peers_only:
            targets.append(stack.enter_context(processes.upeti(port)))
            one_level = stack.enter_context(processes.upeti(port, "upeti-one-level", budgets=""))
        ours = targets[-1]
        time.sleep(1)
        idle = [machine.rss_kb(target.pid) / 1024 for target in (ours, targets[1])]
        figures.append(figure("memory of an idle worker", "MB", idle[0], "nginx", idle[1]))
        if not peers_only:
            figures += measure_levels(ours, one_level, plan)
        for measure in (measure_calls, measure_latency, measure_streams, measure_first_byte):
            figures += measure(targets, plan)
        figures += measure_memory_of_calls(ours, plan)
        figures += measure_open_streams(targets[1:], plan)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the gateway beside nginx, in one run.")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it runs, not for figures")
    parser.add_argument("--calls", type=int, help="calls after which memory is looked at again (1,000,000)")
    parser.add_argument("--rounds", type=int, help="rounds of which the median counts (3)")
    parser.add_argument("--peers-only", action="store_true", help="without Upeti: what can this machine do")
    found = parser.parse_args()
    plan = QUICK if found.quick else Plan()
    plan = Plan(found.rounds or plan.rounds, plan.seconds, plan.rate_seconds, found.calls or plan.calls)
    description = machine.Description.of_this()
    try:
        machine.check()
        figures = run(plan, peers_only=found.peers_only)
    except machine.UnfitError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(
        f"{description.processor}, Linux {description.kernel}, Python {description.python}, nginx {description.nginx}"
    )
    print(f"{plan.rounds} rounds of {plan.seconds} s, median; one core for the gateway, one for provider and load")
    print(report.table(figures, "nginx" if found.peers_only else "Upeti"))
    report.write(RESULT, figures, description, asdict(plan))
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
