"""The measuring tools measure: the rate client charges a stalling server, the fake provider speaks the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from upeti.sim.provider import SimProvider

SOURCES = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("fake_provider", "rate_client"):
        command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-std=gnu17"]
        subprocess.run([*command, "-o", folder / name, SOURCES / f"{name}.c"], check=True)
    return folder


@pytest.fixture
def fake_port(programs: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([programs / "fake_provider", "-p", str(port), "-c", "5", "-t", "100", "-d", "20"])
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert process.poll() is None
    yield port
    process.kill()
    process.wait()


async def rate_client(programs: Path, port: int, *options: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        programs / "rate_client", "-p", str(port), "-s", "1", "-w", "0", *options, stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    told: dict[str, Any] = json.loads(out)
    return told


async def test_a_stalling_server_is_charged_for_every_call_that_was_due(programs: Path) -> None:
    async with SimProvider() as provider:
        provider.always = "slow20"  # 50 calls a second on one connection
        at_once = await rate_client(programs, provider.port, "-r", "0", "-c", "1")
        assert at_once["errors"] == 0
        assert 20_000 <= at_once["latency_us"]["p50"] < 100_000
        # 100 a second are due: the last one of a second waits for about a second.
        due = await rate_client(programs, provider.port, "-r", "100", "-c", "1", "-g", "5")
        assert due["answered"] + due["errors"] == 100
        assert due["latency_us"]["max"] > 700_000
        assert due["latency_us"]["p50"] > 300_000


async def test_failures_and_unanswered_calls_are_errors(programs: Path) -> None:
    async with SimProvider() as provider:
        refused, unanswered, cut = await asyncio.gather(
            rate_client(programs, provider.port, "-r", "50", "-c", "2", "-m", "m-err500"),
            rate_client(programs, provider.port, "-r", "50", "-c", "2", "-m", "m-never", "-g", "0"),
            rate_client(programs, provider.port, "-r", "20", "-c", "2", "-m", "m-cut2", "-S"),
        )
        assert (refused["answered"], refused["errors"], refused["not_200"]) == (0, 50, 50)
        assert (unanswered["answered"], unanswered["errors"]) == (0, 50)
        assert (cut["answered"], cut["errors"]) == (0, 20)


async def test_it_reads_every_framing(programs: Path) -> None:
    async with SimProvider() as provider:
        models = [f"m-{word}" for word in ("", "split5", "chunked", "close", "each", "interim", "http10")]
        kinds = [(model, *options) for model in models for options in ((), ("-S",))]
        runs = [rate_client(programs, provider.port, "-r", "10", "-c", "3", "-m", *kind) for kind in kinds]
        for kind, told in zip(kinds, await asyncio.gather(*runs), strict=True):
            assert (told["answered"], told["errors"]) == (10, 0), kind


async def test_the_fake_provider_is_read_by_openais_client(fake_port: int) -> None:
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{fake_port}/v1", api_key="k", max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    plain = await client.chat.completions.create(model="fake", messages=messages)
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 50
    for model in ("fake", "fake-each", "fake-slow"):
        stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).split()[-1] == "token4"
        assert chunks[-1].usage is not None
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="err429", messages=messages)
    assert [model.id async for model in client.models.list()] == ["fake"]
    await client.close()


async def test_the_fake_providers_slow_stream_takes_its_time(programs: Path, fake_port: int) -> None:
    told = await rate_client(programs, fake_port, "-r", "20", "-c", "20", "-S", "-m", "fake-slow")
    assert told["answered"] == 20
    assert 100_000 <= told["first_byte_us"]["p50"] < 180_000
    # Behind the first of 5 events: 4 more, the stop, the usage and the end, 20 ms apart.
    assert told["latency_us"]["p50"] - told["first_byte_us"]["p50"] >= 6 * 20_000
