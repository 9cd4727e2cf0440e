"""The processes of a benchmark: the fake provider, nginx before it, Upeti before it.

Rules: each is started fresh, pinned, waited for, and stopped at the end with all that it started. nginx is
given its best: one worker, no access log, kept-alive connections upstream, buffering off only where streams
pass. Upeti runs as it does in production: ``upeti serve`` with keeper, five levels of budgets (so holds
and leases are on), a price, and the journal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from benchmarks import machine
from benchmarks.machine import BUILD, MEASURED_CORE, OTHER_CORE, UnfitError

KEY = "sk-bench-0123456789abcdef"
EVENTS_PER_STREAM = 50
START_SECONDS_MAX = 30


@dataclass(frozen=True)
class Target:
    """Something to send calls to. ``pid``: the worker whose CPU and memory count; 0 for the provider itself."""

    name: str
    port: int
    stream_port: int
    pid: int = 0
    keeper_pid: int = 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def provider(*, first_byte_ms: int = 50, between_ms: int = 1000, events: int = EVENTS_PER_STREAM) -> Iterator[int]:
    """Run the fake provider; yields its port. The times are those of its slow answers."""
    port = free_port()
    program = machine.compile_c("fake_provider")
    arguments = ["-p", str(port), "-c", str(events), "-t", str(first_byte_ms), "-d", str(between_ms)]
    with _running([str(program), *arguments], "provider", OTHER_CORE):
        _wait_for(port, "provider")
        yield port


@contextlib.contextmanager
def nginx(provider_port: int) -> Iterator[Target]:
    """Run nginx as a plain reverse proxy."""
    folder = _fresh("nginx")
    port, stream_port = free_port(), free_port()
    location = "location / { proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ''; %s }"
    (folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile {machine.OPEN_FILES};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections {machine.OPEN_FILES - 1000}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  proxy_read_timeout 600s;
  upstream provider {{
    server 127.0.0.1:{provider_port};
    keepalive 1024; keepalive_requests 1000000000;
  }}
  server {{ listen 127.0.0.1:{port} backlog=4096; {location % ""} }}
  server {{ listen 127.0.0.1:{stream_port} backlog=4096; {location % "proxy_buffering off;"} }}
}}
""")
    program = machine.find("nginx")
    assert program is not None
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with _running(command, "nginx", OTHER_CORE) as pid:
        _wait_for(port, "nginx")
        (worker,) = machine.children(pid)
        machine.pin(worker, MEASURED_CORE)
        yield Target("nginx", port, stream_port, worker)


CONFIG = """
data_dir = "data"
[gateway]
port = {port}
workers = 1
connections_max = 12000
[control]
port = {control_port}
[money]
price_files = ["prices.toml"]
[[channel]]
name = "provider"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{provider_port}/v1"
api_key = "env:UPETI_BENCH_PROVIDER_KEY"
prices = "bench"
connections_max = 12000
[[route]]
name = "*"
[[route.candidate]]
channel = "provider"
[[key]]
id = "bench"
tenant = "bench"
project = "bench"
feature = "bench"
limit = "1000000"
sha256 = "{digest}"
"""

# With the key's own limit these are the five levels that every call is then held on.
FOUR_LEVELS = """
[[budget]]
name = "organisation"
window = "month"
limit = "9000000"
[[budget]]
name = "tenant"
tenant = "bench"
window = "month"
zone = "Asia/Jakarta"
limit = "8000000"
[[budget]]
name = "project"
tenant = "bench"
project = "bench"
window = "week"
limit = "7000000"
[[budget]]
name = "feature"
tenant = "bench"
feature = "bench"
window = "day"
limit = "6000000"
"""

PRICES = """
part = "bench"
[[price]]
models = ["fake", "fake-each", "fake-slow"]
from = 2020-01-01
currency = "USD"
per_million = { input = "2.50", input_cached = "1.25", output = "10.00" }
source = "the list price of an ordinary model, so that the arithmetic is an ordinary one"
source_date = 2026-11-01
"""


@contextlib.contextmanager
def upeti(provider_port: int, name: str = "upeti", budgets: str = FOUR_LEVELS) -> Iterator[Target]:
    """Run ``upeti serve``: keeper and one worker. A call is held on the key's limit and on ``budgets``."""
    folder = _fresh(name)
    port = free_port()
    digest = sha256(KEY.encode()).hexdigest()
    (folder / "upeti.toml").write_text(
        CONFIG.format(port=port, control_port=free_port(), provider_port=provider_port, digest=digest) + budgets
    )
    (folder / "prices.toml").write_text(PRICES)
    command = [sys.executable, "-m", "upeti.cli.main", "serve", "--config", str(folder / "upeti.toml")]
    environment = {**os.environ, "UPETI_BENCH_PROVIDER_KEY": "sk-provider"}
    with _running(command, name, OTHER_CORE, environment) as pid:
        _wait_for(port, name)
        below = machine.children(pid)
        worker = _only(below, "upeti.gateway.worker")
        machine.pin(worker, MEASURED_CORE)
        keeper = _only(below, "upeti.control.keeper")
        yield Target(name, port, port, worker, keeper)


def _only(pids: list[int], words: str) -> int:
    found = [pid for pid in pids if words in machine.command_of(pid)]
    if len(found) != 1:
        raise UnfitError(f"{len(found)} processes of {words}: see {BUILD}/upeti.log")
    return found[0]


def _fresh(name: str) -> Path:
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _running(command: list[str], name: str, core: int, environment: dict[str, str] | None = None) -> Iterator[int]:
    BUILD.mkdir(parents=True, exist_ok=True)
    pinned = ["taskset", "-c", str(core), *command]
    with (BUILD / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            pinned, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
        process.wait()


def _wait_for(port: int, name: str) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise UnfitError(f"{name} did not start: see {BUILD / name}.log")
