"""Load: wrk for what a core can do, the rate client for latency at a given rate. Both run on the other core."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from benchmarks import machine
from benchmarks.machine import HERE, OTHER_CORE, UnfitError
from benchmarks.processes import KEY, Target


@dataclass(frozen=True)
class Throughput:
    """As many calls as go, over ``connections`` at once. CPU is the measured worker's, 0 without one."""

    calls: int
    per_second: float
    cpu_us_per_call: float
    keeper_cpu_us_per_call: float


@dataclass(frozen=True)
class Latency:
    """Percentiles in microseconds, from the moment that a call was due."""

    p50: int
    p99: int
    p999: int
    first_byte_p50: int
    first_byte_p99: int


def throughput(target: Target, seconds: float, *, model: str = "fake", connections: int = 32) -> Throughput:
    """Send calls for ``seconds`` without a pause; ``fake-each`` and ``fake`` with ``stream`` ask for streams.

    Raises ``UnfitError`` when a call fails: a figure with errors in it is none.
    """
    return _wrk(target, seconds, model, connections, streamed=False)


def streams(target: Target, seconds: float, *, model: str = "fake", connections: int = 32) -> Throughput:
    """The same with streams."""
    return _wrk(target, seconds, model, connections, streamed=True)


def _wrk(target: Target, seconds: float, model: str, connections: int, *, streamed: bool) -> Throughput:
    port = target.stream_port if streamed else target.port
    environment = {**os.environ, "BENCH_KEY": KEY, "BENCH_MODEL": model, "BENCH_STREAM": "1" if streamed else "0"}
    command = [machine.find("wrk") or "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}", "--timeout", "20s"]
    command += ["-s", str(HERE / "call.lua"), f"http://127.0.0.1:{port}/v1/chat/completions"]
    before = [machine.cpu_us(pid) if pid else 0 for pid in (target.pid, target.keeper_pid)]
    told = _report(command, environment)
    after = [machine.cpu_us(pid) if pid else 0 for pid in (target.pid, target.keeper_pid)]
    if told["not_200"] or told["socket_errors"] or not told["calls"]:
        raise UnfitError(f"{target.name}: {told} from {' '.join(command)}")
    calls = int(told["calls"])
    used = [(b - a) / calls for a, b in zip(before, after, strict=True)]
    return Throughput(calls, calls / (told["microseconds"] / 1e6), *used)


def latency(target: Target, *, rate: int, seconds: int, connections: int, streamed: bool = False) -> Latency:
    """Send ``rate`` calls a second (0: one after the other on each connection). Raises ``UnfitError`` on errors."""
    told = rate_client(target, rate=rate, seconds=seconds, connections=connections, streamed=streamed, model="fake")
    if told["errors"]:
        raise UnfitError(f"{target.name}: {told}")
    all_of, first = told["latency_us"], told["first_byte_us"]
    return Latency(all_of["p50"], all_of["p99"], all_of["p999"], first["p50"], first["p99"])


def rate_client(
    target: Target,
    *,
    rate: int,
    seconds: int,
    connections: int,
    streamed: bool,
    model: str,
    grace: int = 5,
    warm_up: int = 1,
) -> dict[str, Any]:
    """Run the rate client to its end and return what it tells."""
    command = rate_client_command(
        target,
        rate=rate,
        seconds=seconds,
        connections=connections,
        streamed=streamed,
        model=model,
        grace=grace,
        warm_up=warm_up,
    )
    return _report(command, dict(os.environ))


def rate_client_command(
    target: Target,
    *,
    rate: int,
    seconds: int,
    connections: int,
    streamed: bool,
    model: str,
    grace: int,
    warm_up: int,
) -> list[str]:
    program = machine.compile_c("rate_client")
    port = target.stream_port if streamed else target.port
    numbers = {"-p": port, "-r": rate, "-s": seconds, "-w": warm_up, "-c": connections, "-g": grace}
    command = [str(program), "-m", model, "-k", KEY]
    for option, number in numbers.items():
        command += [option, str(number)]
    return [*command, "-S"] if streamed else command


def _report(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    pinned = ["taskset", "-c", str(OTHER_CORE), *command]
    done = subprocess.run(pinned, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        told: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise UnfitError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}") from None
    return told
