"""Faults in a channel's place: a real gateway, two real providers; who is in the share meets them, nobody else does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gateway_side import Books, Served, candidate, channel, chat, request, route, serving, snapshot
from upeti.core.events import ChannelSignalled
from upeti.gateway.faults import MILLION, Fault, Kind, chosen
from upeti.gateway.snapshot import Snapshot
from upeti.providers.signals import LATCHES, shipped
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))
HOUR_NS = 3600 * 10**9
ALL = MILLION
NAMES = st.text(max_size=40)


def fault(kind: Kind = Kind.REFUSED, share: int = ALL, **changes: Any) -> Fault:
    now_ns = time.time_ns()
    fields = {"from_ns": now_ns - HOUR_NS, "until_ns": now_ns + HOUR_NS, "drill": "drl_1"} | changes
    return Fault("first", kind, share, **fields)


def error(signal: str = "openai-account-deactivated", **changes: Any) -> Fault:
    row = shipped().named(signal)
    assert row is not None
    told = {"status": row.statuses[0], "headers": row.example_headers, "body": row.example.encode()}
    return fault(Kind.ERROR, **told | changes)


def scene(first: SimProvider, second: SimProvider, *faults: Fault, **changes: Any) -> Snapshot:
    channels = [channel("first", first, signals_host="api.openai.com"), channel("second", second)]
    candidates = (candidate("first", "gpt-first"), candidate("second", "gpt-second", order=1))
    return snapshot(channels, [route("m", *candidates, **changes)], faults=faults)


def ended(books: Books) -> list[tuple[str, str]]:
    """Return (channel, how it ended) of every attempt, by call and attempt."""
    channels = {(one.call, one.attempt): one.channel for one in books.opened}
    found = sorted((one.call, one.attempt, one.ended) for one in books.settled)
    return [(channels[call, attempt], how) for call, attempt, how in found]


@given(drill=NAMES, call=NAMES, share=st.integers(0, MILLION), more=st.integers(0, MILLION))
def test_who_is_in_a_share_is_in_every_larger_one(drill: str, call: str, share: int, more: int) -> None:
    assert chosen(drill, call, MILLION)
    assert not chosen(drill, call, 0)
    if chosen(drill, call, share):
        assert chosen(drill, call, min(MILLION, share + more))


def test_a_share_is_that_share_of_calls_and_another_drill_chooses_others() -> None:
    names = [f"req_{number:08x}" for number in range(20_000)]
    first, second = ({one for one in names if chosen(drill, one, 50_000)} for drill in ("drl_1", "drl_2"))
    # 1,000 are expected; of 20,000 draws at 5 % the standard deviation is 31, and the names are fixed.
    assert abs(len(first) - 1000) < 5 * 31
    assert abs(len(second) - 1000) < 5 * 31
    assert len(first & second) < 100  # 50 are expected


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.RESET])
async def test_no_connection_fails_over_and_nothing_is_sent_or_owed(
    tmp_path: Path, provider: SimProvider, other: SimProvider, kind: Kind
) -> None:
    async with serving(tmp_path, scene(provider, other, fault(kind))) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.headers["x-upeti-served-by"]) == (200, "second/gpt-second")
        assert served.gateway.view.channels["first"].pool.open_connections == 0
    assert not provider.seen
    assert ended(served.books()) == [("first", "drill"), ("second", "answered")]
    assert [(one.outcome, one.cost_pico) for one in served.books().settled if one.ended == "drill"] == [("voided", 0)]


async def test_the_drills_breaker_opens_and_the_channels_own_does_not(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, scene(provider, other, fault())) as served:
        for _ in range(8):
            assert (await served.ask(CALL)).status == 200
        live = served.gateway.view.channels["first"]
        assert not live.breaker.is_open
        assert live.rehearsal is not None
        assert live.rehearsal.breaker.is_open
    # Five failures open it; from then on the second candidate is asked at once.
    assert ended(served.books()).count(("first", "drill")) == live.breaker.failures_max


async def test_a_documented_error_latches_for_the_share_alone_and_opens_no_incident(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, scene(provider, other, error(share=ALL // 2))) as served:
        inside = outside = 0
        for _ in range(60):
            answer = await served.ask(CALL)
            assert answer.status == 200
            if chosen("drl_1", answer.headers["x-request-id"], ALL // 2):
                inside += 1
                assert answer.headers["x-upeti-served-by"] == "second/gpt-second"
            else:
                outside += 1
                assert answer.headers["x-upeti-served-by"] == "first/gpt-first"
        assert inside
        assert outside
        assert not list(served.gateway.view.latches)
        assert not served.events()["channel_latched"]
    books = served.books()
    assert ended(books).count(("first", "drill")) == 1  # then the drill's latch keeps the channel out
    assert not [one for one in books.records if isinstance(one, ChannelSignalled)]


async def test_every_cut_that_is_documented_can_be_rehearsed(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """All at once: a route, and a channel that is cut, for each row."""
    rows = [row for row in shipped().rows if row.reaction in LATCHES]
    assert len(rows) > 20
    channels = [channel("second", other), channel("second-anthropic", other, "anthropic")]
    routes, faults = [], []
    for row in rows:
        kind = row.kinds[0] if row.kinds else "openai_compatible"
        host = row.hosts[0] if row.hosts else "api.openai.com"
        channels.append(channel(row.id, provider, kind, signals_host=f"x{host}" if host[0] == "." else host))
        spare = "second-anthropic" if kind == "anthropic" else "second"
        routes.append(route(row.id, candidate(row.id, "gpt-first"), candidate(spare, "gpt-second", order=1)))
        told = {"status": row.statuses[0], "headers": row.example_headers, "body": row.example.encode()}
        faults.append(msgspec.structs.replace(fault(Kind.ERROR, drill=row.id, **told), channel=row.id))
    async with serving(tmp_path, snapshot(channels, routes, faults=tuple(faults))) as served:
        for row in rows:
            path = "/v1/messages" if "anthropic" in row.kinds else "/v1/chat/completions"
            for _ in range(2):
                answer = await served.ask(request(chat(row.id, max_tokens=5), path))
                assert (row.id, answer.status) == (row.id, 200)
                assert answer.headers["x-upeti-served-by"].endswith("/gpt-second")
        assert not list(served.gateway.view.latches)
        assert not served.gateway.view.signs.held
    assert not provider.seen
    met = [name for name, how in ended(served.books()) if how == "drill"]
    assert sorted(met) == sorted(row.id for row in rows)  # each once: then it is latched


async def test_without_an_alternative_the_client_is_told_that_it_is_a_drill(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    first = snapshot(
        [channel("first", provider, signals_host="api.openai.com")],
        [route("m", candidate("first", "gpt-first"))],
        faults=(error(),),
    )
    async with serving(tmp_path, first) as served:
        for _ in range(2):
            answer = await served.ask(CALL)
            assert (answer.status, answer.code) == (503, "channel_latched")
            assert "drl_1" in answer.json["error"]["message"]
    assert ended(served.books()) == [("first", "drill")]
    assert [one.code for one in served.books().refused] == ["channel_latched"] * 2


async def test_what_is_the_clients_own_error_goes_back_to_the_client(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, scene(provider, other, error("openai-content"))) as served:
        answer = await served.ask(CALL)
        assert answer.status == 400
        assert answer.headers["x-upeti-cost"] == "0"
    assert ended(served.books()) == [("first", "drill")]


async def test_silence_lasts_as_long_as_an_attempt_may(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, scene(provider, other, fault(Kind.SILENT), attempt_timeout_ms=150)) as served:
        begun = asyncio.get_running_loop().time()
        answer = await served.ask(CALL)
        assert asyncio.get_running_loop().time() - begun >= 0.15
        assert answer.headers["x-upeti-served-by"] == "second/gpt-second"
    assert ended(served.books()) == [("first", "drill"), ("second", "answered")]


async def test_a_slow_provider_answers_itself_but_late(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, scene(provider, other, fault(Kind.SLOW, delay_ms=120))) as served:
        answer = await served.ask(CALL)
        assert answer.headers["x-upeti-served-by"] == "first/gpt-first"
    _, settled = served.books().attempt()
    assert settled.ended == "answered"
    assert settled.first_byte_us >= 120_000


async def test_it_ends_by_its_own_time_while_nobody_is_there_to_end_it(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    now_ns = time.time_ns()
    over = fault(until_ns=now_ns)
    to_come = fault(from_ns=now_ns + HOUR_NS, until_ns=now_ns + 2 * HOUR_NS)
    for one in (over, to_come):
        async with serving(tmp_path / str(one.until_ns), scene(provider, other, one)) as served:
            assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "first/gpt-first"


async def test_a_snapshot_without_it_ends_it_at_once_and_another_one_keeps_what_it_knows(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    one = error()
    async with serving(tmp_path, scene(provider, other, one)) as served:
        await served.ask(CALL)
        served.swap(output_tokens_default=7)
        await served.ask(CALL)
        assert ended(served.books()).count(("first", "drill")) == 1  # still latched
        served.swap(faults=())
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "first/gpt-first"
        assert not served.gateway.view.rehearsed


async def test_calls_of_the_same_moment_see_a_latch_that_another_one_has_shut(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """The fault is the second candidate's: it is latched while calls wait at the first one."""

    def drilled(served: Served) -> int:
        return ended(served.books()).count(("first", "drill"))

    channels = [
        channel("slow", other),
        channel("first", provider, signals_host="api.openai.com"),
        channel("third", provider),
    ]
    way = route("m", candidate("slow", "slow300-err503"), candidate("first", order=1), candidate("third", order=2))
    async with serving(tmp_path, snapshot(channels, [way], faults=(error(),))) as served:
        answers = await asyncio.gather(*(served.ask(CALL) for _ in range(4)))
        assert [answer.headers["x-upeti-served-by"] for answer in answers] == ["third/m"] * 4
        assert drilled(served) >= 1
        before = drilled(served)
        await served.ask(CALL)
        assert drilled(served) == before
