"""Being cut off, seen from one worker: what it tells the keeper and hears from it, whom it holds, where data may go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.gateway_side import (
    KEY,
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
from upeti.gateway import keeper_link as link
from upeti.gateway import snapshot as snapshot_file
from upeti.gateway.latch import Latch, Scope, State, Subject
from upeti.gateway.snapshot import Caller, SecretRef, Snapshot
from upeti.rights.data_policy import DataPolicy
from upeti.sim.provider import SimProvider

CALL = request(chat(max_tokens=5))
STREAM = request(chat(max_tokens=5, stream=True))
OTHER_KEY = "upeti-another-key"
CALLERS = {KEY: Caller("k1", "acme", "shop"), OTHER_KEY: Caller("k2", "beta", "shop")}
FIRST = Subject(Scope.CHANNEL, "first")


def two(first: SimProvider, second: SimProvider, kind: str = "openai_compatible", **changes: Any) -> Snapshot:
    channels = [channel("first", first, kind), channel("second", second, kind)]
    candidates = (candidate("first", "gpt-first"), candidate("second", "gpt-second", order=1))
    return snapshot(channels, [route("m", *candidates, **changes)], callers=CALLERS)


def latch(subject: Subject = FIRST, state: State = State.LATCHED, **changes: Any) -> Latch:
    return Latch(
        subject,
        state,
        1_790_000_000 * 10**9,
        **({"incident": "inc_x", "meaning": "account_cut", "why": "it is cut"} | changes),
    )


async def served_by(served: Served, sent: bytes = CALL) -> str:
    return (await served.ask(sent)).headers["x-upeti-served-by"]


def told(served: Served, kind: type[Any]) -> list[Any]:
    assert served.keeper is not None
    return [word for word in served.keeper.heard if isinstance(word, kind)]


# -- with the keeper -----------------------------------------------------------------------------------------------------


async def test_a_latch_is_told_at_once_and_opened_by_the_keepers_word(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other), limits_pico={}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: told(served, link.Hello), what="the worker's hello")
        provider.always = "sigopenaiaccountdeactivated"
        assert await served_by(served) == "second/gpt-second"
        (word,) = await until(lambda: told(served, link.Latched), what="the word of the latch")
        assert (word.latch.subject, word.signal, word.status) == (FIRST, "openai-account-deactivated", 401)
        assert word.excerpt.startswith('{"error":{"message":"The OpenAI account')
        assert served.gateway._samples()['upeti_channel_latched{channel="first"}'] == 1
        affected = await until(lambda: told(served, link.Affected), what="the count of calls")
        assert affected[0].calls == {word.latch.incident: 1}
        provider.always = ""
        keeper.tell(link.LatchOpened(FIRST))
        await until(lambda: not len(served.gateway.view.latches), what="the opening")
        assert await served_by(served) == "first/gpt-first"
        assert served.gateway._samples()['upeti_channel_latched{channel="first"}'] == 0


async def test_another_workers_latch_holds_here_before_any_snapshot(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other), limits_pico={}) as served:
        assert served.keeper is not None
        await until(lambda: told(served, link.Hello), what="the worker's hello")
        assert await served_by(served) == "first/gpt-first"
        served.keeper.tell(link.LatchShut(latch()))
        await until(lambda: len(served.gateway.view.latches), what="the latch")
        assert await served_by(served) == "second/gpt-second"
        served.swap()  # compiled before the keeper had it
        assert await served_by(served) == "second/gpt-second"
        served.swap(latches=(latch(),))
        served.swap(latches=())
        assert await served_by(served) == "first/gpt-first"


async def test_while_the_keeper_is_down_the_latch_holds_and_it_hears_of_it_later(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other), limits_pico={}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: told(served, link.Hello), what="the worker's hello")
        await keeper.stop()
        await until(lambda: served.gateway.keeper._transport is None, what="the loss of the keeper")
        provider.always = "sigopenaiaccountdeactivated"
        for _ in range(3):
            assert await served_by(served) == "second/gpt-second"
        assert provider.seen == 1
        assert told(served, link.Latched) == []
        await keeper.start()
        (word,) = await until(lambda: told(served, link.Latched), what="the word of the latch")
        assert word.latch.subject == FIRST
        # Until a snapshot has it, it is said again: the keeper may have been killed over it.
        await keeper.stop()
        await until(lambda: served.gateway.keeper._transport is None, what="the loss of the keeper")
        await keeper.start()
        await until(lambda: len(told(served, link.Latched)) == 2, what="the same word again")
        served.swap(latches=(word.latch,))
        await keeper.stop()
        await until(lambda: served.gateway.keeper._transport is None, what="the loss of the keeper")
        await keeper.start()
        await until(lambda: len(told(served, link.Hello)) == 4, what="the next hello")
        assert len(told(served, link.Latched)) == 2


async def test_a_latch_of_a_person_is_in_the_snapshot_and_says_so(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other)) as served:
        held = latch(state=State.HELD, by="head of legal", why="head of legal: contract under review")
        second = latch(Subject(Scope.CHANNEL, "second"), incident="inc_y")
        served.swap(latches=(held, second))
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (503, "channel_latched")
        message = refused.json["error"]["message"]
        assert "contract under review" in message
        assert "`upeti channels open first` opens it" in message
        assert "2026-09-21" in message
        assert provider.seen == other.seen == 0


async def test_another_key_is_not_latched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_PROVIDER_KEY", "the-old-key-0000000001")
    async with SimProvider() as provider:
        provider.next("err401")
        up = channel("up", provider, api_key=SecretRef("env", "UPETI_TEST_PROVIDER_KEY"))
        async with serving(tmp_path, snapshot([up], [route("m", candidate("up", "gpt-up"))])) as served:
            assert (await served.ask(CALL)).code == "channel_latched"
            (found,) = served.gateway.view.latches
            assert (found.subject.scope, found.subject.channel) == (Scope.KEY, "up")
            assert (await served.ask(CALL)).code == "channel_latched"
            monkeypatch.setenv("UPETI_TEST_PROVIDER_KEY", "the-new-key-0000000002")
            served.swap()
            assert (await served.ask(CALL)).status == 200


async def test_latches_are_in_the_snapshot_as_they_are(tmp_path: Path) -> None:
    first = snapshot([channel("up", 9)], latches=(latch(),), policies=(DataPolicy("p", regions=frozenset({"eu"})),))
    assert snapshot_file.decode(snapshot_file.encode(first)) == first


# -- streams that had begun ------------------------------------------------------------------------------------------------


async def test_a_stream_that_had_begun_ends_with_an_error_of_its_own_kind_and_is_settled(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """The account is cut off while ten streams run: the provider closes them, and answers 401 from then on."""
    provider.always = "drip30"
    async with serving(tmp_path, two(provider, other)) as served:
        lines = [await served.connect() for _ in range(10)]
        for line in lines:
            line.send(request(chat(max_tokens=100, stream=True)))
        heads = [await line.reader.readuntil(b"\r\n\r\n") for line in lines]
        assert all(b"x-upeti-served-by: first/" in head for head in heads)
        await until(lambda: provider.seen == 10, what="the streams")
        port = provider.port
        await provider.stop()
        provider.port = port
        provider.always = "sigopenaiaccountdeactivated"
        await provider.start()
        for line in lines:
            body, _ = await line._chunks()
            last = json.loads(body.split(b"\n\n")[-2].removeprefix(b"data: "))
            assert last["error"]["code"] == "stream_cut"
            line.close()
        assert await served_by(served) == "second/gpt-second"  # the breaker is open
        books = served.books()
        assert [one.ended for one in books.settled] == ["cut"] * 10 + ["answered"]
        assert len(books.settled) == len(books.opened)


# -- abuse -------------------------------------------------------------------------------------------------------------------


async def test_the_suspect_is_held_before_anything_of_his_goes_elsewhere(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    async with serving(tmp_path, two(provider, other, "azure"), limits_pico={}) as served:
        await until(lambda: told(served, link.Hello), what="the worker's hello")
        provider.next("sigazurecontentfilter", "sigazurecontentfilter")
        for _ in range(2):
            assert (await served.ask(CALL)).status == 400
        provider.always = "sigazureabuseblock"
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (403, "tenant_quarantined")
        assert other.seen == 0  # the next account is not burnt
        (found,) = served.gateway.view.latches
        assert found.incident in refused.json["error"]["message"]
        assert (await served.ask(CALL)).code == "tenant_quarantined"
        # Another tenant fails over.
        assert await served_by(served, request(chat(max_tokens=5), key=OTHER_KEY)) == "second/gpt-second"
        (word,) = await until(lambda: told(served, link.AbuseBlocked), what="the word of the block")
        assert (word.tenant, word.channel, word.incident, word.refusals) == ("acme", "first", found.incident, 2)
        assert [one.code for one in served.books().refused] == ["tenant_quarantined"] * 2
        # The keeper's case has a number, and ends.
        assert served.keeper is not None
        served.keeper.tell(link.TenantHeld("acme", "case C-000007", served.gateway.now_ns() + 10**18))
        await until(lambda: served.gateway.cut_off.signs.held["acme"].number == "case C-000007", what="the case")
        assert "case C-000007" in (await served.ask(CALL)).json["error"]["message"]
        served.gateway.cut_off.signs.held["acme"].until_ns = 1
        served.gateway.cut_off.tick()
        assert await served_by(served) == "second/gpt-second"


async def test_somebody_elses_signs_make_him_the_suspect(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    """The call that meets the block is not the one that caused it; another worker saw the refusals."""
    async with serving(tmp_path, two(provider, other, "azure"), limits_pico={}) as served:
        assert served.keeper is not None
        await until(lambda: told(served, link.Hello), what="the worker's hello")
        served.keeper.tell(link.Refusals([("first", "beta", 5), ("second", "acme", 50)]))
        await until(lambda: served.gateway.cut_off.signs.suspect("first", 0.0)[0] == "beta", what="the refusals")
        provider.always = "sigazureabuseblock"
        assert await served_by(served) == "second/gpt-second"
        refused = await served.ask(request(chat(max_tokens=5), key=OTHER_KEY))
        assert (refused.status, refused.code) == (403, "tenant_quarantined")


async def test_without_any_sign_nobody_is_suspected(tmp_path: Path, provider: SimProvider, other: SimProvider) -> None:
    provider.always = "sigazureabuseblock"
    async with serving(tmp_path, two(provider, other, "azure")) as served:
        assert await served_by(served) == "second/gpt-second"
        assert served.gateway.cut_off.signs.held == {}


# -- where data may go -------------------------------------------------------------------------------------------------------


def three(providers: list[SimProvider], *policies: DataPolicy) -> Snapshot:
    channels = [
        channel("eu", providers[0], region="eu", retention_days=0),
        channel("us", providers[1], region="us", retention_days=30),
        channel("unknown", providers[1]),
    ]
    candidates = [candidate(name, f"gpt-{name}", order=order) for order, name in enumerate(("us", "unknown", "eu"))]
    return snapshot(channels, [route("m", *candidates)], callers=CALLERS, policies=policies)


@pytest.mark.parametrize(
    ("policy", "mine", "others"),
    [
        (DataPolicy("eu-only", tenant="acme", regions=frozenset({"eu"})), "eu/gpt-eu", "us/gpt-us"),
        (DataPolicy("short", tenant="acme", retention_days_max=7), "eu/gpt-eu", "us/gpt-us"),
        (DataPolicy("long", tenant="acme", retention_days_max=30), "us/gpt-us", "us/gpt-us"),
        (DataPolicy("not-us", tenant="acme", channels_denied=frozenset({"us"})), "unknown/gpt-unknown", "us/gpt-us"),
        (DataPolicy("of-a-key", key="k2", regions=frozenset({"eu"})), "us/gpt-us", "eu/gpt-eu"),
    ],
)
async def test_a_policy_holds_at_the_first_choice(
    tmp_path: Path, provider: SimProvider, other: SimProvider, policy: DataPolicy, mine: str, others: str
) -> None:
    async with serving(tmp_path, three([provider, other], policy)) as served:
        for _ in range(2):
            assert await served_by(served) == mine
            assert await served_by(served, request(chat(max_tokens=5), key=OTHER_KEY)) == others


async def test_a_policy_holds_when_failing_over(tmp_path: Path, provider: SimProvider, other: SimProvider) -> None:
    policy = DataPolicy("eu-only", tenant="acme", regions=frozenset({"us"}))
    other.always = "err500"
    async with serving(tmp_path, three([provider, other], policy)) as served:
        assert (await served.ask(CALL)).status == 500
        assert provider.seen == 0
        assert await served_by(served, request(chat(max_tokens=5), key=OTHER_KEY)) == "eu/gpt-eu"


async def test_a_policy_that_came_while_a_call_was_under_way_holds_for_its_failover(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    other.next("err500-slow150")
    async with serving(tmp_path, three([provider, other])) as served:
        asked = asyncio.ensure_future(served.ask(CALL))
        await other.wait_for(1)
        served.swap(policies=(DataPolicy("us-only", regions=frozenset({"us"})),))
        assert (await asked).headers["x-upeti-served-by"] == "us/gpt-us"
        other.next("err500-slow150")
        asked = asyncio.ensure_future(served.ask(CALL))
        await other.wait_for(3)
        served.swap(policies=(DataPolicy("nowhere", regions=frozenset({"id"})),))
        refused = await asked
        assert (refused.status, refused.code) == (403, "no_permitted_candidate")
        assert provider.seen == 0


async def test_a_policy_for_a_feature_is_for_its_calls_alone(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    policy = DataPolicy("medical", feature="medical", regions=frozenset({"eu"}))
    async with serving(tmp_path, three([provider, other], policy)) as served:
        tagged = request(chat(max_tokens=5), headers="x-upeti-feature: medical\r\n")
        for _ in range(2):
            assert await served_by(served, tagged) == "eu/gpt-eu"
            assert await served_by(served) == "us/gpt-us"
        assert await served_by(served, request(chat(max_tokens=5), headers="x-upeti-feature: else\r\n")) == "us/gpt-us"


async def test_when_no_candidate_is_permitted_the_policy_is_named(tmp_path: Path, provider: SimProvider) -> None:
    policy = DataPolicy("eu-only", regions=frozenset({"eu"}))
    first = msgspec.structs.replace(snapshot([channel("up", provider, region="us")]), policies=(policy,))
    async with serving(tmp_path, first) as served:
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (403, "no_permitted_candidate")
        for part in ("'eu-only'", "'up'", "its region is us"):
            assert part in refused.json["error"]["message"]
        assert provider.seen == 0
