"""Every way in which the provider can misbehave, through the real gateway, and the auditor finds nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

import upeti.sim
from upeti.sim.auditor import Received, audit
from upeti.sim.behaviours import WORDS
from upeti.sim.provider import SimProvider

SOURCE = Path(upeti.sim.__file__).parents[2]
KEY = "sk-of-the-audit"
START_SECONDS_MAX = 30

CONFIG = """
data_dir = "data"
[gateway]
port = {port}
[control]
port = {control_port}
[money]
price_files = ["prices.toml"]
[[channel]]
name = "openai"
kind = "openai_compatible"
base_url = "{url}/v1"
api_key = "env:UPETI_AUDIT_KEY"
prices = "sim"
breaker_failures = 1000000
[[channel]]
name = "anthropic"
kind = "anthropic"
base_url = "{url}"
api_key = "env:UPETI_AUDIT_KEY"
prices = "sim"
breaker_failures = 1000000
[[route]]
name = "*"
attempt_timeout_ms = 500
stream_idle_ms = 500
attempts_max = 2
[[route.candidate]]
channel = "openai"
[[route.candidate]]
channel = "anthropic"
[[key]]
id = "audited"
tenant = "audited"
limit = "{limit}"
sha256 = "{digest}"
"""

PRICES = """
part = "sim"
[[price]]
models = {models}
from = 2020-01-01
currency = "USD"
per_million = {{ input = "2.50", input_cached = "1.25", output = "10.00" }}
source = "of this test"
source_date = 2026-11-01
"""
PRICES_PICO = {"input": 2_500_000, "input_cached": 1_250_000, "output": 10_000_000}
LIMIT_USD = 1000

# A number where a word needs one or would take long. `in` and `out` stay below what is held: more is found, rightly.
NUMBERS = {"err": 429, "out": 9, "in": 9, "slow": 50, "drip": 5, "biganswer": 64}
MODELS = ["m", "m-cut2-usageeach", "m-split9-crlf-ping", "m-err400", "m-err500", "m-each-slow100"]
# A spent quota takes the whole channel out; tests/faults/test_cut_off.py audits that.
MODELS += [f"m-{word}{NUMBERS.get(word, '')}" for word in WORDS if word != "quota"]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 20}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SimProvider]:
    async with SimProvider(log=tmp_path / "provider.jsonl", keep_requests=False) as provider:
        yield provider


async def start_gateway(folder: Path, provider: SimProvider) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    (folder / "prices.toml").write_text(PRICES.format(models=json.dumps(MODELS)))
    digest = sha256(KEY.encode()).hexdigest()
    config = CONFIG.format(port=port, control_port=free_port(), url=provider.url, digest=digest, limit=LIMIT_USD)
    (folder / "upeti.toml").write_text(config)
    environment = {**os.environ, "UPETI_AUDIT_KEY": "sk-provider", "PYTHONPATH": str(SOURCE)}
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "upeti.cli.main", "serve", "--config", str(folder / "upeti.toml")],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return process, f"http://127.0.0.1:{port}"


async def until_ready(client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_SECONDS_MAX):
        while process.poll() is None:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError("the gateway has died")


async def call(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Received:
    complete = True
    async with client.stream("POST", path, json=body) as answer:
        try:
            async for _ in answer.aiter_raw():
                pass
        except httpx.TransportError:
            complete = False
    cost = answer.headers.get("x-upeti-cost")
    cost = None if cost == "unknown" else cost
    return Received(answer.headers["x-request-id"], answer.status_code, complete, cost=cost)


async def test_nothing_is_lost_whatever_the_provider_does(tmp_path: Path, provider: SimProvider) -> None:
    process, url = await start_gateway(tmp_path, provider)
    try:
        limits = httpx.Limits(max_connections=24)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=limits) as client:
            await until_ready(client, process)
            received = await asyncio.gather(
                *(
                    call(client, path, {"model": model, "stream": streamed, **body})
                    for model in MODELS
                    for path, body in CALLS
                    for streamed in (False, True)
                )
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    findings = audit(
        tmp_path / "data",
        [tmp_path / "provider.jsonl"],
        received,
        prices=dict.fromkeys(MODELS, PRICES_PICO),
        limits_pico={"key:audited": LIMIT_USD * 10**12},
    )
    assert findings == []
    statuses = {each.status for each in received}
    assert {200, 400, 429, 502, 504} <= statuses
    assert provider.seen > len(received)  # there were second attempts
