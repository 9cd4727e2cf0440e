"""Every row of the table of signals at work: a provider answers with the documented body, a real gateway reacts, and the
call that met it is answered by the next permitted candidate within its deadline, or has its own error back unchanged.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import Books, Served, candidate, channel, chat, request, route, serving, snapshot
from upeti.core.events import ChannelSignalled
from upeti.gateway.latch import Scope, State, Subject
from upeti.gateway.snapshot import Snapshot
from upeti.providers.signals import MEANS, Reaction, Signal, shipped
from upeti.sim.provider import SimProvider

ROWS = shipped().rows
CALL = request(chat(max_tokens=5))
STREAM = request(chat(max_tokens=5, stream=True))
MESSAGE = request({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Halo"}]}, "/v1/messages")
DEADLINE_S = 5.0


def word(row: Signal) -> str:
    return "sig" + row.id.replace("-", "")


def kind(row: Signal) -> str:
    return row.kinds[0] if row.kinds else "openai_compatible"


def host(row: Signal) -> str:
    name = row.hosts[0] if row.hosts else ""
    return f"bedrock-runtime.eu-central-1{name}" if name.startswith(".") else name


def call_of(row: Signal) -> bytes:
    return MESSAGE if kind(row) == "anthropic" else CALL


def scene(row: Signal, first: SimProvider, second: SimProvider, **changes: Any) -> Snapshot:
    """A route of two candidates, the first at a provider of the row's kind; the sim speaks as the row's host does."""
    channels = [channel("first", first, kind(row), signals_host=host(row)), channel("second", second, kind(row))]
    candidates = (candidate("first", "gpt-first"), candidate("second", "gpt-second", order=1))
    return snapshot(channels, [route("m", *candidates, **({"deadline_ms": int(DEADLINE_S * 1000)} | changes))])


def latched(served: Served) -> list[Subject]:
    return [latch.subject for latch in served.gateway.view.latches if latch.state is State.LATCHED]


def signalled(books: Books) -> list[ChannelSignalled]:
    return [record for record in books.records if isinstance(record, ChannelSignalled)]


def subject(row: Signal) -> Subject:
    return {
        Reaction.LATCH_MODEL: Subject(Scope.MODEL, "first", "gpt-first"),
        Reaction.LATCH_CHANNEL: Subject(Scope.CHANNEL, "first"),
        Reaction.LATCH_KEY: Subject(Scope.CHANNEL, "first"),  # the channel has no key: the sim takes any
        Reaction.QUARANTINE_TENANT: Subject(Scope.CHANNEL, "first"),
    }[row.reaction]


LATCHING = [row for row in ROWS if row.reaction.startswith("latch_") or row.reaction is Reaction.QUARANTINE_TENANT]


@pytest.mark.parametrize("row", LATCHING, ids=[row.id for row in LATCHING])
async def test_what_is_cut_off_is_latched_and_the_next_candidate_answers(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other)) as served:
        began = asyncio.get_running_loop().time()
        answered = await served.ask(call_of(row))
        assert asyncio.get_running_loop().time() - began < DEADLINE_S
        assert (answered.status, answered.headers["x-upeti-served-by"]) == (200, "second/gpt-second")
        assert latched(served) == [subject(row)]
        again = await served.ask(call_of(row))
        assert again.status == 200
        assert provider.seen == 1  # nobody asks again what is known
        (record,) = signalled(served.books())
        assert (record.signal, record.meaning, record.reaction) == (row.id, row.meaning, row.reaction)
        assert record.incident.startswith("inc_")
        (latch,) = served.gateway.view.latches
        assert latch.why.startswith(MEANS[row.meaning])
        settled = served.books().settled
        assert (settled[0].ended, settled[0].cost_pico) == ("refused", 0)
        assert [one.ended for one in settled[1:]] == ["answered", "answered"]


RETRYING = [row for row in ROWS if row.reaction is Reaction.RETRY_ONCE]


@pytest.mark.parametrize("row", RETRYING, ids=[row.id for row in RETRYING])
async def test_what_is_overloaded_is_asked_once_more_and_then_left(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    async with serving(tmp_path, scene(row, provider, other)) as served:
        provider.next(word(row))
        assert (await served.ask(call_of(row))).headers["x-upeti-served-by"] == "first/gpt-first"
        assert provider.seen == 2
        provider.always = word(row)
        assert (await served.ask(call_of(row))).headers["x-upeti-served-by"] == "second/gpt-second"
        assert provider.seen == 4
        assert latched(served) == []


THROTTLING = [row for row in ROWS if row.reaction is Reaction.WAIT_OR_FAIL_OVER]


@pytest.mark.parametrize("row", THROTTLING, ids=[row.id for row in THROTTLING])
async def test_a_throttle_goes_to_the_next_candidate_when_it_is_long(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other)) as served:
        assert (await served.ask(call_of(row))).headers["x-upeti-served-by"] == "second/gpt-second"
        assert provider.seen == 1
        assert latched(served) == []


@pytest.mark.parametrize("row", [shipped().named("any-throttle")])
async def test_a_throttle_that_is_short_is_waited_for(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    provider.next(word(row))
    async with serving(tmp_path, scene(row, provider, other, throttle_wait_ms=1_000)) as served:
        began = asyncio.get_running_loop().time()
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "first/gpt-first"
        assert asyncio.get_running_loop().time() - began >= 0.99
        # Not longer than the call has time.
    provider.next(word(row))
    async with serving(tmp_path / "b", scene(row, provider, other, throttle_wait_ms=1_000, deadline_ms=800)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/gpt-second"


FAILING_OVER = [row for row in ROWS if row.reaction is Reaction.FAIL_OVER]


@pytest.mark.parametrize("row", FAILING_OVER, ids=[row.id for row in FAILING_OVER])
async def test_what_another_can_do_is_done_by_another(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other)) as served:
        assert (await served.ask(call_of(row))).headers["x-upeti-served-by"] == "second/gpt-second"
        assert provider.seen == 1
        assert [one.signal for one in signalled(served.books())] == [row.id]


GIVEN_BACK = [row for row in ROWS if row.reaction is Reaction.GIVE_BACK]


@pytest.mark.parametrize("row", GIVEN_BACK, ids=[row.id for row in GIVEN_BACK])
async def test_what_is_the_clients_comes_back_byte_for_byte_and_nobody_else_is_asked(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other)) as served:
        answered = await served.ask(call_of(row))
        assert (answered.status, answered.body) == (row.statuses[0], row.example.encode())
        assert (provider.seen, other.seen) == (1, 0)
        assert latched(served) == []


PROBING = [row for row in ROWS if row.reaction is Reaction.PROBE]


@pytest.mark.parametrize("row", PROBING, ids=[row.id for row in PROBING])
async def test_what_may_be_either_is_decided_by_a_probe(
    tmp_path: Path, provider: SimProvider, other: SimProvider, row: Signal
) -> None:
    async with serving(tmp_path, scene(row, provider, other)) as served:
        provider.next(word(row))  # the probe is answered well
        answered = await served.ask(call_of(row))
        assert (answered.status, answered.body) == (row.statuses[0], row.example.encode())
        assert latched(served) == []
        served.gateway.cut_off.prober.forget("first")
        provider.always = word(row)
        answered = await served.ask(call_of(row))
        assert (answered.status, answered.headers["x-upeti-served-by"]) == (200, "second/gpt-second")
        assert latched(served) == [Subject(Scope.CHANNEL, "first")]
        assert [one.verdict for one in signalled(served.books())] == ["sound", "cut"]
        assert provider.seen == 4  # two calls, two probes


async def test_every_reaction_has_its_test() -> None:
    tested = [*LATCHING, *RETRYING, *THROTTLING, *FAILING_OVER, *GIVEN_BACK, *PROBING]
    assert sorted(row.id for row in tested) == sorted(row.id for row in ROWS)


# -- streams ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai-account-deactivated", "openai-quota", "openai-model-gone"])
async def test_a_stream_that_has_not_begun_is_answered_by_the_next_candidate(
    tmp_path: Path, provider: SimProvider, other: SimProvider, name: str
) -> None:
    row = shipped().named(name)
    assert row is not None
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other)) as served:
        answered = await served.ask(STREAM)
        assert answered.headers["x-upeti-served-by"] == "second/gpt-second"
        assert answered.body.endswith(b"data: [DONE]\n\n")
        assert latched(served) == [subject(row)]


# -- when nobody else can take it --------------------------------------------------------------------------------------------


async def test_when_all_are_latched_the_client_is_told_what_since_when_and_why(
    tmp_path: Path, provider: SimProvider
) -> None:
    provider.always = "siganthropicorganizationdisabled"
    routes = [route("m", candidate("up", "claude"))]
    async with serving(tmp_path, snapshot([channel("up", provider, "anthropic")], routes)) as served:
        for _ in range(3):  # the call that met it, and those after it
            refused = await served.ask(MESSAGE)
            error = refused.json["error"]
            assert (refused.status, error["code"], error["type"]) == (503, "channel_latched", "overloaded_error")
            (latch,) = served.gateway.view.latches
            for part in ("'up'", "the provider has cut the account off", latch.incident, "upeti incidents show"):
                assert part in error["message"]
        assert provider.seen == 1
        assert [one.code for one in served.books().refused] == ["channel_latched"] * 3
        assert sum(served.gateway.view.latches.affected.values()) == 3


async def test_a_model_that_is_gone_does_not_take_its_channel_along(tmp_path: Path, provider: SimProvider) -> None:
    routes = [route("old", candidate("up", "gpt-old")), route("new", candidate("up", "gpt-new"))]
    async with serving(tmp_path, snapshot([channel("up", provider)], routes)) as served:
        provider.next("sigopenaimodelgone")
        assert (await served.ask(request(chat("old")))).code == "channel_latched"
        assert (await served.ask(request(chat("old")))).code == "channel_latched"
        assert (await served.ask(request(chat("new")))).status == 200
        assert latched(served) == [Subject(Scope.MODEL, "up", "gpt-old")]


async def test_a_name_that_a_client_made_up_latches_nothing(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        provider.next("sigopenaimodelgone")
        answered = await served.ask(request(chat("gpt-5-ultra-typo")))
        assert (answered.status, answered.json["error"]["code"]) == (404, "model_not_found")
        assert latched(served) == []
        assert (await served.ask(request(chat("gpt-5-ultra-typo")))).status == 200


# -- secrets -----------------------------------------------------------------------------------------------------------------

SECRET = "hunter2-is-the-providers-key-0001"


@pytest.mark.parametrize("words", ["echo", "echo-gzip", "echo-err500"])
async def test_the_operators_key_is_taken_out_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    from upeti.gateway.snapshot import SecretRef

    monkeypatch.setenv("UPETI_TEST_PROVIDER_KEY", SECRET)
    async with SimProvider(api_key=SECRET) as provider:
        up = channel("up", provider, api_key=SecretRef("env", "UPETI_TEST_PROVIDER_KEY"))
        routes = [route("m", candidate("up", "gpt-up"), attempts_max=1)]
        provider.next(words)
        async with serving(tmp_path, snapshot([up], routes)) as served:
            answered = await served.ask(CALL)
            assert answered.status in (400, 500)
            assert answered.json["error"]["message"] == "Wrong, with [hidden] and all that."
            assert SECRET not in str(served.log.lines)
        everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in everything


# -- content ---------------------------------------------------------------------------------------------------------------


async def test_a_content_filters_refusal_goes_on_only_where_the_route_says_so(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    row = shipped().named("openai-content")
    assert row is not None
    provider.always = word(row)
    async with serving(tmp_path, scene(row, provider, other, content_failover=True)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "second/gpt-second"
        assert provider.seen == 1


@pytest.mark.parametrize("sent", [CALL, STREAM], ids=["plain", "stream"])
async def test_an_answer_that_a_filter_ended_goes_through_untouched_and_is_counted(
    tmp_path: Path, provider: SimProvider, sent: bytes
) -> None:
    async with serving(tmp_path, snapshot([channel("up", provider, "azure")])) as served:
        provider.always = "filtered"
        answered = await served.ask(sent)
        assert answered.status == 200
        assert b'"finish_reason":"content_filter"' in answered.body
        assert served.gateway._samples()['upeti_content_refusals_total{channel="up"}'] == 1
        provider.always = "trap"
        await served.ask(sent)
        assert served.gateway._samples()['upeti_content_refusals_total{channel="up"}'] == 1


async def test_where_nobody_blocks_for_abuse_answers_are_not_searched(tmp_path: Path, provider: SimProvider) -> None:
    provider.always = "filtered"
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        assert b'"finish_reason":"content_filter"' in (await served.ask(CALL)).body
        assert 'upeti_content_refusals_total{channel="up"}' not in served.gateway._samples()
