"""Every way in which an attempt can end, and how its hold is settled then: once, and as the table says.

The books are read back from the journal; the fixture checks that nothing is left held or open.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import (
    KEY,
    MICRO_USD,
    Served,
    candidate,
    channel,
    chat,
    request,
    route,
    serving,
    snapshot,
    until,
)
from upeti.core.amount import PICO_PER_UNIT
from upeti.core.errors import JournalError
from upeti.core.events import Outcome
from upeti.gateway.holds import ENDINGS, Ended, Purse, Rates
from upeti.gateway.purses import PurseSet
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.gateway.upstream import UpstreamConnection
from upeti.journal.writer import _Segments
from upeti.money.budget_terms import BudgetTerms, name_of
from upeti.sim.provider import SimProvider

BUDGET = "key:k1"
# Five levels, from the organisation to the feature, one of them a month's and one soft; and both kinds of rates.
LEVELS = (
    BudgetTerms(name="organisation", limit="1"),
    BudgetTerms(name="tenant", limit="1", window="month", zone="Asia/Jakarta", tenant="acme"),
    BudgetTerms(name="project", limit="1", tenant="acme", project="shop"),
    BudgetTerms(name="feature", limit="1", feature="search"),
    BudgetTerms(name="watched", limit="0", soft=True),
)
CALLS_A_MINUTE = BudgetTerms(name="calls", limit="100", unit="calls", window="minute")
TOKENS_A_MINUTE = BudgetTerms(name="tokens", limit="100000", unit="tokens", window="minute")
LIMIT = {
    BUDGET: 10**12,
    **{terms.root: terms.limit_pico for terms in (*LEVELS, CALLS_A_MINUTE, TOKENS_A_MINUTE)},
}
ROUTE = {"attempts_max": 1, "attempt_timeout_ms": 150, "stream_idle_ms": 150}


def one_route(port: SimProvider | int, kind: str = "openai_compatible", **limits: Any) -> Snapshot:
    callers = {KEY: Caller("k1", "acme", "shop", "search", budgets=(BUDGET,), limit="1")}
    routes = [route("*", candidate("up"), **ROUTE)]
    budgets = (*LEVELS, CALLS_A_MINUTE, TOKENS_A_MINUTE)
    return snapshot([channel("up", port, kind)], routes, callers=callers, limits=limits, budgets=budgets)


@pytest.fixture
async def served(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with serving(tmp_path, one_route(provider), limits_pico=LIMIT) as running:
        yield running


TOKENS_HELD: list[int] = []  # of each attempt, in pico tokens


@pytest.fixture(autouse=True)
def tokens_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rates_of = PurseSet.rates

    def keep(self: PurseSet, *, first: bool, tokens: int) -> Rates:
        TOKENS_HELD.append(tokens * PICO_PER_UNIT)
        return rates_of(self, first=first, tokens=tokens)

    monkeypatch.setattr(PurseSet, "rates", keep)


def rates(served: Served) -> tuple[Purse, Purse]:
    """The purses of calls and of tokens; a test may cross a minute, but its only attempt is in one."""
    purses = served.gateway.holds._purses.values()
    (calls,) = [purse for purse in purses if purse.unit == "calls"]
    (tokens,) = [purse for purse in purses if purse.unit == "tokens"]
    return calls, tokens


def outcome(served: Served) -> tuple[str, str, str]:
    """How the only attempt ended, how it was settled, and at what: ``exact``, ``bound`` or ``nothing``."""
    opened, settled = served.books().attempt()
    assert len(opened.budgets) == len({*opened.budgets}) == 6
    assert {name_of(budget) for budget in opened.budgets} == {terms.name for terms in LEVELS} | {BUDGET}
    for budget in opened.budgets:
        assert (served.purse(budget).held, served.purse(budget).posted) == (0, settled.cost_pico)
    calls, tokens = rates(served)
    assert (calls.held, calls.posted) == (0, PICO_PER_UNIT)  # it was let through, whatever came of it
    assert tokens.held == 0
    if settled.outcome is Outcome.VOIDED or settled.ended == "refused":
        assert tokens.posted == 0
    elif settled.meters is not None:
        assert tokens.posted == sum(settled.meters.values()) * PICO_PER_UNIT
    else:
        assert tokens.posted == TOKENS_HELD[-1] > 0
    cost = "nothing" if not settled.cost_pico else "bound" if settled.cost_pico == opened.bound_pico else "exact"
    if cost == "exact":
        assert settled.meters is not None
        assert settled.cost_pico == (2 * settled.meters["input"] + 8 * settled.meters["output"]) * MICRO_USD
    return settled.ended, settled.outcome.value, cost


ANSWERED = ("answered", "posted", "exact")
UNKNOWN = ("answered", "estimated", "bound")
CUT = ("cut", "estimated", "bound")

# What the provider does → the end, plain and streamed, and the status that the client sees.
ROWS: list[tuple[str, tuple[str, str, str], int, tuple[str, str, str], int]] = [
    ("m", ANSWERED, 200, ANSWERED, 200),
    ("m-each", ANSWERED, 200, ANSWERED, 200),
    ("m-split9", ANSWERED, 200, ANSWERED, 200),
    ("m-gzip", ANSWERED, 200, UNKNOWN, 200),  # a compressed stream is not read
    ("m-close", ANSWERED, 200, ANSWERED, 200),
    ("m-http10", ANSWERED, 200, ANSWERED, 200),
    ("m-drop", ANSWERED, 200, ANSWERED, 200),
    ("m-interim", ANSWERED, 200, ANSWERED, 200),
    ("m-usageeach-each", ANSWERED, 200, ANSWERED, 200),
    ("m-trap-crlf-ping-split20", ANSWERED, 200, ANSWERED, 200),
    ("m-nousage", UNKNOWN, 200, UNKNOWN, 200),
    ("m-badjson", UNKNOWN, 200, UNKNOWN, 200),
    ("m-err400", ("refused", "posted", "nothing"), 400, ("refused", "posted", "nothing"), 400),
    # The key is dead: the channel is latched, and the client hears of that.
    ("m-err401", ("refused", "posted", "nothing"), 503, ("refused", "posted", "nothing"), 503),
    ("m-err429", ("refused", "posted", "nothing"), 429, ("refused", "posted", "nothing"), 429),
    ("m-err500", ("refused", "posted", "nothing"), 500, ("refused", "posted", "nothing"), 500),
    ("m-err408", ("refused_unsure", "estimated", "bound"), 408, ("refused_unsure", "estimated", "bound"), 408),
    ("m-err504", ("refused_unsure", "estimated", "bound"), 504, ("refused_unsure", "estimated", "bound"), 504),
    ("m-reset", ("lost", "estimated", "bound"), 502, ("lost", "estimated", "bound"), 502),
    ("m-never", ("timed_out", "estimated", "bound"), 504, ("timed_out", "estimated", "bound"), 504),
    ("m-garbage", ("garbage", "estimated", "bound"), 502, ("garbage", "estimated", "bound"), 502),
    ("m-cutbody", CUT, 502, ANSWERED, 200),
    ("m-cut3-each", CUT, 502, CUT, 200),
    ("m-cut3-each-reset", CUT, 502, CUT, 200),
    ("m-cut0", CUT, 502, CUT, 200),
    ("m-stall3-each", ("timed_out", "estimated", "bound"), 504, ("timed_out", "estimated", "bound"), 200),
    ("m-cut3-each-usageeach", CUT, 502, CUT, 200),  # figures so far are not the final ones
]


@pytest.mark.parametrize(("words", "plain", "status"), [row[:3] for row in ROWS])
async def test_a_plain_call(served: Served, words: str, plain: tuple[str, str, str], status: int) -> None:
    answered = await served.ask(request(chat(words, max_tokens=5)))
    assert answered.status == status
    assert outcome(served) == plain


@pytest.mark.parametrize(("words", "streamed", "status"), [(row[0], row[3], row[4]) for row in ROWS])
async def test_a_stream(served: Served, words: str, streamed: tuple[str, str, str], status: int) -> None:
    answered = await served.ask(request(chat(words, max_tokens=5, stream=True)))
    assert answered.status == status
    assert outcome(served) == streamed


async def test_a_stream_that_is_cut_after_its_final_usage_is_exact(served: Served) -> None:
    # 5 tokens, the finish, the usage; cut before [DONE].
    body = chat("m-cut7-each", max_tokens=5, stream=True, stream_options={"include_usage": True})
    answered = await served.ask(request(body))
    assert b'"completion_tokens":5' in answered.body
    assert b"stream_cut" in answered.body
    assert outcome(served) == ("cut", "posted", "exact")


async def test_an_answer_longer_than_is_held_back_passes_on_and_is_not_read(
    tmp_path: Path, provider: SimProvider
) -> None:
    first = one_route(provider, answer_bytes_max=65_536)
    async with serving(tmp_path, first, limits_pico=LIMIT) as served:
        answered = await served.ask(request(chat("m-biganswer1000", max_tokens=5)))
        assert len(answered.body) > 1_000_000
        assert json.loads(answered.body)["usage"]
        assert "x-upeti-cost-max" in answered.headers
        assert outcome(served) == UNKNOWN


async def test_an_error_longer_than_is_held_back_is_cut(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 500 X\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    first = one_route(server.sockets[0].getsockname()[1], answer_bytes_max=65_536)
    async with serving(tmp_path, first, limits_pico=LIMIT) as served:
        answered = await served.ask(request(chat(max_tokens=5)))
        assert answered.status == 500
        assert 65_536 < len(answered.body) < 1_000_000
        assert outcome(served) == ("refused", "posted", "nothing")
    server.close()


# -- the client leaves -------------------------------------------------------------------------------------------------


@pytest.fixture
async def cancelling(tmp_path: Path, provider: SimProvider) -> AsyncIterator[Served]:
    async with serving(tmp_path, one_route(provider, client_left="cancel"), limits_pico=LIMIT) as running:
        yield running


LONG = request(chat("m-drip10", max_tokens=30, stream=True))


async def over(served: Served) -> None:
    """Wait until the call is over and on the books."""
    await until(lambda: not served.gateway.fibers and served.books().settled, what="the end of the call")


async def leave_within(served: Served, sent: bytes) -> None:
    line = await served.connect()
    line.send(sent)
    await line.reader.readuntil(b"Halo ")
    line.reset()


async def test_a_client_that_leaves_within_a_stream_pays_exactly_when_it_is_drained(
    served: Served, provider: SimProvider
) -> None:
    await leave_within(served, LONG)
    await over(served)
    assert outcome(served) == ANSWERED
    assert provider.requests[0].served is not None
    assert provider.requests[0].served.complete


async def test_a_client_that_leaves_within_a_stream_pays_the_bound_when_it_is_cancelled(
    cancelling: Served, provider: SimProvider
) -> None:
    await leave_within(cancelling, LONG)
    await over(cancelling)
    assert outcome(cancelling) == ("client_left", "estimated", "bound")
    await until(lambda: provider.connections_open == 0, what="the end of the connection")
    assert provider.requests[0].served is not None
    assert not provider.requests[0].served.complete


async def test_a_client_that_leaves_while_the_provider_thinks(served: Served, provider: SimProvider) -> None:
    line = await served.connect()
    line.send(request(chat("m-slow100", max_tokens=5)))
    await provider.wait_for(1)
    line.reset()
    await over(served)
    assert outcome(served) == ANSWERED


async def test_a_client_that_leaves_while_the_provider_thinks_and_is_cancelled(
    cancelling: Served, provider: SimProvider
) -> None:
    line = await cancelling.connect()
    line.send(request(chat("m-never", max_tokens=5)))
    await provider.wait_for(1)
    line.reset()
    await over(cancelling)
    assert outcome(cancelling) == ("client_left", "estimated", "bound")


@pytest.mark.parametrize("client_left", ["drain", "cancel"])
async def test_a_client_that_is_gone_before_anything_was_sent_pays_nothing(
    tmp_path: Path, provider: SimProvider, client_left: str
) -> None:
    """It leaves while the connection to the provider is being made: here, while a TLS handshake is not answered."""
    accepted = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    first = one_route(server.sockets[0].getsockname()[1], client_left=client_left)
    view = channel("up", server.sockets[0].getsockname()[1], tls=True, connect_timeout_ms=400)
    routes = {"*": route("*", candidate("up"), attempts_max=1)}
    async with serving(tmp_path, first, limits_pico=LIMIT) as served:
        served.swap(channels={"up": view}, routes=routes)
        line = await served.connect()
        line.send(request(chat(max_tokens=5)))
        await asyncio.wait_for(accepted.wait(), 5)
        line.reset()
        await over(served)
        assert outcome(served) == ("not_sent", "voided", "nothing")
    server.close()


async def test_a_client_that_is_gone_when_the_connection_is_there_pays_nothing(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, one_route(provider), limits_pico=LIMIT) as served:
        connect = served.gateway.view.channels["up"].pool.connect

        async def connect_late() -> UpstreamConnection:
            connection = await connect()
            (client,) = served.gateway.connections
            client.connection_lost(None)
            return connection

        monkeypatch.setattr(served.gateway.view.channels["up"].pool, "connect", connect_late)
        line = await served.connect()
        line.send(request(chat(max_tokens=5)))
        await until(lambda: served.books().settled, what="the settlement")
        assert outcome(served) == ("not_sent", "voided", "nothing")
        line.close()
    assert provider.seen == 0


async def test_a_client_that_leaves_while_it_waits_for_another_attempt(
    cancelling: Served, provider: SimProvider
) -> None:
    cancelling.swap(routes={"*": route("*", candidate("up"), attempts_max=9)})
    line = await cancelling.connect()
    line.send(request(chat("m-err500", max_tokens=5)))
    await until(lambda: cancelling.books().settled, what="the first attempt")
    line.reset()
    await over(cancelling)
    assert outcome(cancelling) == ("refused", "posted", "nothing")


# -- the provider leaves -----------------------------------------------------------------------------------------------


async def test_a_provider_that_closed_an_idle_connection_is_connected_to_anew(
    served: Served, provider: SimProvider
) -> None:
    line = await served.connect()
    line.send(request(chat("m-drop", max_tokens=5)))
    assert (await line.answer()).status == 200
    await until(lambda: served.gateway.view.channels["up"].pool.open_connections == 0, what="the end of the connection")
    line.send(request(chat(max_tokens=5)))
    assert (await line.answer()).status == 200
    line.close()
    assert served.books().outcomes() == [("answered", "posted")] * 2
    assert provider.connections_total == 2


ANOTHER = b"HTTP/1.1 404 X\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nno"


@pytest.mark.parametrize(
    ("extra", "at_once", "status", "ended"),
    [
        (b"junk", True, 200, "answered"),
        (b"junk", False, 200, "answered"),
        (b"\x00\xff", True, 200, "answered"),
        (ANOTHER, False, 200, "answered"),
        (ANOTHER, True, 502, "garbage"),  # read in one go, their headers cannot be told apart
    ],
)
async def test_what_a_provider_sends_behind_its_answer_reaches_nobody(
    tmp_path: Path, extra: bytes, at_once: bool, status: int, ended: str
) -> None:
    usage = b'{"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while b"}]" in await reader.read(65_536):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(usage)
            writer.write(head + usage + (extra if at_once else b""))
            if not at_once:
                await asyncio.sleep(0.02)
                writer.write(extra)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    first = one_route(server.sockets[0].getsockname()[1])
    async with serving(tmp_path, first, limits_pico=LIMIT) as served:
        line = await served.connect()
        for _ in range(2):
            line.send(request(chat()))
            answered = await line.answer()
            assert answered.status == status
            assert answered.body[-2:] != b"no"
            if status == 200:
                assert answered.body == usage
            await asyncio.sleep(0.04)
        line.close()
        assert [settled.ended for settled in served.books().settled] == [ended] * 2
    assert len(connections) == 2  # a connection on which that happened is not used again
    server.close()


# -- our own faults ----------------------------------------------------------------------------------------------------


async def test_a_fault_of_ours_is_settled_answered_and_logged(
    served: Served, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: UpstreamConnection) -> bytes:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(UpstreamConnection, "whole_body", fail)
        answered = await served.ask(request(chat(max_tokens=5)))
    assert (answered.status, answered.code) == (500, "internal_error")
    assert outcome(served) == ("crashed", "estimated", "bound")
    (line,) = [line for line in served.log.lines if line["event"] == "crashed"]
    assert "ZeroDivisionError" in line["message"]
    assert "test_endings.py" in line["trace"]
    assert (await served.ask(request(chat(max_tokens=5)))).status == 200
    served.crashes_allowed = True


async def test_a_fault_of_ours_within_a_stream_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = UpstreamConnection.read

    async def fail_later(self: UpstreamConnection) -> bytes:
        reads.append(1)
        if len(reads) > 3:
            raise ZeroDivisionError
        return await read(self)

    monkeypatch.setattr(UpstreamConnection, "read", fail_later)
    line = await served.connect()
    line.send(LONG)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await line.answer()
    assert outcome(served) == ("crashed", "estimated", "bound")
    served.crashes_allowed = True


async def test_a_journal_that_cannot_be_written_stops_calls_before_they_are_made(
    served: Served, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: _Segments, records: list[Any]) -> None:
        raise JournalError("the journal cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_Segments, "write", full)
        for sent in (request(chat(max_tokens=5)), LONG):
            answered = await served.ask(sent)
            assert (answered.status, answered.code) == (503, "journal_unavailable")
    assert provider.seen == 0
    assert served.events()["journal"] == 2
    assert served.purse(BUDGET).held == 0
    assert (await served.ask(request(chat(max_tokens=5)))).status == 200


# -- the worker stops --------------------------------------------------------------------------------------------------


async def test_a_worker_that_stops_waits_no_longer_than_it_may(tmp_path: Path, provider: SimProvider) -> None:
    first = one_route(provider, drain_timeout_ms=50)
    async with serving(tmp_path, first, limits_pico=LIMIT) as served:
        served.swap(routes={"*": route("*", candidate("up"))})
        line = await served.connect()
        line.send(request(chat("m-never", max_tokens=5)))
        await provider.wait_for(1)
    answered = await line.answer()
    assert (answered.status, answered.code) == (504, "upstream_timeout")
    assert outcome(served) == ("timed_out", "estimated", "bound")


def test_every_ending_has_a_rule_and_a_test_here() -> None:
    assert set(ENDINGS) == set(Ended)
    seen = {row[1][0] for row in ROWS} | {row[3][0] for row in ROWS} | {"not_sent", "client_left", "crashed"}
    seen |= {"drill", "deferred"}  # in test_faults and test_students
    assert seen == {ended.value for ended in Ended}
