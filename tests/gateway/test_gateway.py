"""A worker over time: snapshots that change under way, health, metrics, segments, and the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.gateway_side import (
    KEY,
    PRICED,
    Line,
    Served,
    candidate,
    channel,
    chat,
    keys,
    request,
    route,
    serving,
    snapshot,
    until,
)
from upeti.core import config
from upeti.core.errors import ConfigError
from upeti.gateway import snapshot as s
from upeti.gateway.gateway import Gateway
from upeti.gateway.snapshot import Caller, SecretRef, Snapshot
from upeti.money.price import Price
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))
HEALTH = request(path="/healthz", method="GET", key=None)
READY = request(path="/readyz", method="GET", key=None)
METRICS = request(path="/metrics", method="GET", key=None)


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as running:
        yield running


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def test_what_is_under_way_goes_on_and_what_comes_is_served_by_the_new_snapshot(
    served: Served, provider: SimProvider, other: SimProvider
) -> None:
    plain, stream = await served.connect(), await served.connect()
    plain.send(request(chat("m-slow100", max_tokens=5)))
    stream.send(request(chat("m-drip20", max_tokens=10, stream=True)))
    await provider.wait_for(2)
    cheap = (Price("new-price", "USD", 0, {"input": 1, "output": 1}),)
    channels = {"new": channel("new", other)}
    routes = {"*": route("*", candidate("new", prices={"*": cheap}))}
    served.swap(channels=channels, routes=routes, keys=keys({"new-key": Caller("k2", "other", "")}))
    # The old key is gone, the new one is there …
    plain.send(CALL)
    assert (await plain.answer()).headers["x-upeti-served-by"] == "up/m-slow100"
    assert (await plain.answer()).status == 401
    new = await served.ask(request(chat(max_tokens=5), key="new-key"))
    assert new.headers["x-upeti-served-by"] == "new/m"
    # … and what began before ends as it began.
    assert (await stream.answer()).body.endswith(b"data: [DONE]\n\n")
    plain.close()
    stream.close()
    books = served.books()
    assert sorted(one.price_id for one in books.settled) == ["new-price"] + ["price-of-the-tests"] * 2
    # Connections to a channel that is gone are closed when their answers are over.
    await until(lambda: provider.connections_open == 0, what="the end of the connections")
    assert other.connections_open == 1


async def test_what_did_not_change_is_taken_over(served: Served, provider: SimProvider) -> None:
    assert (await served.ask(CALL)).status == 200
    live = served.gateway.view.channels["up"]
    served.swap(output_tokens_default=7)
    again = served.gateway.view.channels["up"]
    assert (again.pool, again.breaker) == (live.pool, live.breaker)
    assert (await served.ask(request(chat()))).status == 200
    assert provider.requests[-1].json["max_tokens"] == 7
    assert provider.connections_total == 1
    served.swap(channels={"up": channel("up", provider, organization="org-new")})
    assert served.gateway.view.channels["up"].pool is not live.pool
    assert (await served.ask(CALL)).status == 200
    assert provider.requests[-1].header("openai-organization") == "org-new"
    assert provider.connections_total == 2


async def test_limits_change_with_the_snapshot(served: Served) -> None:
    served.swap(gateway=msgspec.structs.replace(served.snapshot.gateway, body_bytes_max=20_000))
    answered = await served.ask(request(chat(x="y" * 20_000)))
    assert (answered.status, answered.code) == (413, "body_too_large")


def missing_secret(first: Snapshot) -> bytes:
    channels = {"up": msgspec.structs.replace(first.channels["up"], api_key=SecretRef("env", "NOT_SET_IN_TESTS"))}
    return s.encode(msgspec.structs.replace(first, version=9, channels=channels))


def missing_authority(first: Snapshot) -> bytes:
    view = msgspec.structs.replace(first.channels["up"], tls=True, ca_file="/nowhere/ca.pem")
    return s.encode(msgspec.structs.replace(first, version=9, channels={"up": view}))


def unknown_kind(first: Snapshot) -> bytes:
    view = msgspec.structs.replace(first.channels["up"], kind="telepathy")
    return s.encode(msgspec.structs.replace(first, version=9, channels={"up": view}))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda first: b"", "snapshot.msgpack"),
        (lambda first: b"\x00garbage", "snapshot.msgpack"),
        (lambda first: s.encode(first)[:-20], "snapshot.msgpack"),
        (lambda first: None, "snapshot.msgpack"),
        (missing_secret, "NOT_SET_IN_TESTS"),
        (missing_authority, "ca_file"),
        (unknown_kind, "telepathy"),
    ],
    ids=["empty", "garbage", "cut", "missing", "secret", "authority", "kind"],
)
async def test_a_broken_snapshot_is_refused_and_the_old_one_stays(
    served: Served, broken: Callable[[Snapshot], bytes | None], says: str
) -> None:
    line = await served.connect()
    line.send(request(chat("m-slow50", max_tokens=5)))
    path = served.data_dir / "run" / "snapshot.msgpack"
    data = broken(served.snapshot)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    served.gateway.swap()
    (refusal,) = [line for line in served.log.lines if line["event"] == "snapshot_refused"]
    assert says in refusal["message"]
    assert served.gateway.view.snapshot.version == 1
    for _ in range(2):
        assert (await line.answer()).status == 200
        line.send(CALL)
    line.close()
    # And a sound one is taken again.
    served.swap()
    assert served.gateway.view.snapshot.version == 2


async def test_a_worker_does_not_start_from_a_broken_snapshot(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ConfigError, match="upeti serve"):
        Gateway(tmp_path, 0, loop)
    (tmp_path / "run").mkdir()
    s.write(tmp_path / "run" / "snapshot.msgpack", snapshot([channel("up", 9, ca_file="/nowhere", tls=True)]))
    with pytest.raises(ConfigError, match="ca_file"):
        Gateway(tmp_path, 0, loop)


async def test_a_snapshot_that_is_known_already_changes_nothing(served: Served) -> None:
    view = served.gateway.view
    served.gateway.swap()
    assert served.gateway.view is view
    assert not served.events()["snapshot"]


async def test_a_price_comes_into_force_at_its_hour(tmp_path: Path, provider: SimProvider) -> None:
    now_ns = [1_000]
    prices = (Price("old", "USD", 0, {"input": 0, "output": 1}), Price("new", "EUR", 2_000, {"input": 0, "output": 3}))
    routes = [route("m", candidate("up", prices={"*": prices}))]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        served.gateway.now_ns = lambda: now_ns[0]
        seen = []
        for now_ns[0] in (1_000, 1_999, 2_000, 9_000):
            answered = await served.ask(CALL)
            seen.append((answered.headers["x-upeti-cost"], answered.headers["x-upeti-currency"]))
        assert [one.price_id for one in served.books().settled] == ["old", "old", "new", "new"]
    assert seen == [("0.000000000005", "USD")] * 2 + [("0.000000000015", "EUR")] * 2


async def test_deadlines_are_looked_at_whatever_goes_wrong_beside_them(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    routes = [route("*", candidate("up"), attempt_timeout_ms=100)]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        with monkeypatch.context() as patch:
            patch.setattr(served.gateway.metrics, "fold", lambda: 1 / 0)
            await until(lambda: "division by zero" in caplog.text, what="the fault")
        assert (await served.ask(request(chat("m-never")))).status == 504


# -- its own paths -----------------------------------------------------------------------------------------------------


async def test_health_and_readiness(served: Served) -> None:
    for sent in (HEALTH, READY):
        answered = await served.ask(sent)
        assert (answered.status, answered.json) == (200, {"status": "ok"})
    served.swap(routes={})
    assert (await served.ask(HEALTH)).status == 200
    answered = await served.ask(READY)
    assert (answered.status, answered.code) == (503, "not_ready")
    assert (await served.ask(request(path="/healthz/x", method="GET"))).status == 404


async def test_metrics_come_from_the_keeper_who_hears_of_every_call(tmp_path: Path, provider: SimProvider) -> None:
    first = snapshot([channel("up", provider)])
    async with serving(tmp_path, first, limits_pico={}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: keeper.heard, what="the worker's hello")
        for sent in (CALL, request(chat("m-err400")), request(chat(), key=None), request(b"{")):
            await served.ask(sent)
        answered = await served.ask(METRICS)
        assert (answered.status, answered.body) == (200, b"upeti_up 1\n")
        assert answered.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = served.gateway._samples()
        await keeper.stop()
        await until(lambda: served.gateway.keeper._transport is None, what="the loss of the keeper")
        answered = await served.ask(METRICS)
        assert (answered.status, answered.code) == (503, "keeper_unreachable")
    # With the probe after the 400: a request that is known to be good.
    assert samples['upeti_attempts_total{channel="up",outcome="posted"}'] == 3
    assert samples['upeti_probes_total{verdict="sound"}'] == 1
    assert samples['upeti_channel_latched{channel="up"}'] == 0
    assert samples['upeti_tokens_total{channel="up",meter="output"}'] == 6
    assert samples['upeti_calls_total{status="2xx"}'] >= 1
    assert samples['upeti_calls_total{status="4xx"}'] == 3
    assert samples['upeti_refusals_total{code="invalid_json"}'] == 1
    assert samples['upeti_attempt_seconds_count{channel="up"}'] == 3
    assert samples['upeti_attempt_seconds_bucket{channel="up",le="+Inf"}'] == 3
    assert samples["upeti_calls_in_flight"] == 0
    assert samples['upeti_upstream_connections{channel="up"}'] == 1
    assert samples['upeti_channel_open{channel="up"}'] == 0
    assert sum(value for name, value in samples.items() if name.startswith("upeti_cost_total{")) > 0
    assert all(re.fullmatch(r'\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})?', name) for name in samples)


async def test_calls_are_named_without_repetition(tmp_path: Path, provider: SimProvider) -> None:
    ids = []
    for part in ("one", "two"):
        async with serving(tmp_path / part, snapshot([channel("up", provider)])) as served:
            ids += [(await served.ask(CALL)).headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 6
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", name) for name in ids)


# -- the journal under way ---------------------------------------------------------------------------------------------


async def test_a_segment_carries_over_what_is_still_open(tmp_path: Path, provider: SimProvider) -> None:
    first = snapshot([channel("up", provider)], journal=config.Journal(segment_bytes=65_536))
    async with serving(tmp_path, first) as served:
        slow = await served.connect()
        slow.send(request(chat("m-slow2500", max_tokens=5)))
        await provider.wait_for(1)
        line = await served.connect()
        while len(served.books().segments) < 2:
            for _ in range(50):
                line.send(CALL)
                assert (await line.answer()).status == 200
        line.close()
        assert (await slow.answer()).status == 200
        slow.close()
        second = served.books().segments[1]
        assert (1, 0, "m-slow2500") in [(one.call, one.attempt, one.model) for one in second.carried]


@pytest.mark.parametrize("sent", [CALL, request(chat(max_tokens=5, stream=True))])
async def test_with_durability_power_calls_are_served_the_same(
    tmp_path: Path, provider: SimProvider, sent: bytes
) -> None:
    first = snapshot([channel("up", provider)], journal=config.Journal(durability="power"))
    async with serving(tmp_path, first) as served:
        answers = await asyncio.gather(*(served.ask(sent) for _ in range(20)))
        assert {answered.status for answered in answers} == {200}
        assert served.books().outcomes() == [("answered", "posted")] * 20


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_stops_finishes_what_it_has_begun(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        idle = await served.connect()
        idle.send(CALL)
        assert (await idle.answer()).status == 200
        silent = await served.connect()
        plain, stream, half = [await served.connect() for _ in range(3)]
        plain.send(request(chat("m-slow200", max_tokens=5)))
        stream.send(request(chat("m-drip20", max_tokens=10, stream=True)))
        half.send(CALL[:40])
        await provider.wait_for(3)
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(served.stop())
        await asyncio.sleep(0.02)
        # Who waits for nothing is let go at once.
        assert await idle.rest() == b""
        assert await silent.rest() == b""
        assert not stopping.done()
        # Who was speaking may end his sentence.
        half.send(CALL[40:])
        for line in (half, plain, stream):
            answered = await line.answer()
            assert answered.status == 200
            # The stream's head was written before anybody knew.
            assert line is stream or answered.headers["connection"] == "close"
            assert await line.rest() == b""
        await stopping
        for line in (idle, silent, plain, stream, half):
            line.close()
        assert served.books().outcomes() == [("answered", "posted")] * 4


async def test_a_worker_that_stops_is_not_ready(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        lines: list[Line] = [await served.connect() for _ in range(2)]
        for line in lines:
            line.send(READY[:10])
        await asyncio.sleep(0.02)
        served.gateway.draining = True
        lines[0].send(READY[10:])
        answered = await lines[0].answer()
        assert (answered.status, answered.code) == (503, "not_ready")
        for line in lines:
            line.close()


# -- tags --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "metadata", "tags"),
    [
        ("", None, ("of-the-key", "")),
        ("X-Upeti-Feature: search\r\n", None, ("search", "")),
        ("X-Upeti-Task: rank it\r\n", None, ("of-the-key", "rank it")),
        ("", {"feature": "chat", "task": "sum"}, ("chat", "sum")),
        ("", {"upeti_feature": "a/b", "feature": "c"}, ("a/b", "")),
        ("X-Upeti-Feature: search\r\n", {"feature": "chat", "task": "sum"}, ("search", "sum")),
        ("X-Upeti-Feature:  \r\n", None, ("of-the-key", "")),
        ("", {"feature": 7}, ("of-the-key", "")),
        ("", "a text", ("of-the-key", "")),
    ],
)
async def test_tags(tmp_path: Path, provider: SimProvider, headers: str, metadata: Any, tags: tuple[str, str]) -> None:
    callers = {KEY: Caller("k1", "acme", "shop", feature="of-the-key")}
    routes = [route("*", candidate("up", prices=PRICED))]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes, callers=callers)) as served:
        body = chat(max_tokens=5) | ({"metadata": metadata} if metadata is not None else {})
        assert (await served.ask(request(body, headers=headers))).status == 200
        opened, _ = served.books().attempt()
        assert (opened.feature, opened.task, opened.tenant, opened.project) == (*tags, "acme", "shop")
    if metadata is not None:
        assert provider.requests[0].json["metadata"] == metadata
