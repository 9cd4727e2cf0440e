"""The known-good probe: was the client wrong, or is the channel cut off? One for a crowd, and its money in the books."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

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
from upeti.core.events import AttemptOpened
from upeti.gateway import keeper_link as link
from upeti.gateway import probe as probes
from upeti.gateway.latch import Scope, Subject
from upeti.gateway.probe import FEATURE, TENANT, Found, Verdict, alike
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.money.budget_terms import BudgetTerms
from upeti.providers.signals import shipped
from upeti.sim.provider import SimProvider
from upeti.wire.error_body import Said

CALL = request(chat(max_tokens=5))
OTHER_KEY = "upeti-another-key"
CALLERS = {KEY: Caller("k1", "acme", "shop"), OTHER_KEY: Caller("k2", "beta", "shop")}


def two(first: SimProvider, second: SimProvider, kind: str = "openai_compatible", **changes: Any) -> Snapshot:
    channels = [channel("first", first, kind), channel("second", second, kind)]
    candidates = (candidate("first", "gpt-first"), candidate("second", "gpt-second", order=1))
    return snapshot(channels, [route("m", *candidates)], callers=CALLERS, **changes)


def probed(served: Served) -> list[AttemptOpened]:
    return [one for one in served.books().opened if one.feature == FEATURE]


def latched(served: Served) -> list[Subject]:
    return [latch.subject for latch in served.gateway.view.latches]


async def test_the_clients_own_mistake_comes_back_as_it_came_and_the_probe_is_in_the_books(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    everything = BudgetTerms(name="organisation", limit="1")
    async with serving(
        tmp_path, two(provider, other, budgets=(everything,)), limits_pico={everything.root: 10**12}
    ) as served:
        provider.next("err400")
        answered = await served.ask(CALL)
        assert (answered.status, answered.json["error"]["message"]) == (400, "This is error 400 of the fake provider.")
        assert (provider.seen, other.seen, latched(served)) == (2, 0, [])
        (opened,) = probed(served)
        assert (opened.tenant, opened.key, opened.wire, opened.model) == (TENANT, "", "chat_completions", "gpt-first")
        assert opened.budgets == (everything.root,)
        assert provider.requests[1].json == {
            "model": "gpt-first",
            "messages": [{"role": "user", "content": "ping"}],
            "max_tokens": 1,
        }
        settled = served.books().settled[1]
        assert (settled.ended, settled.outcome, settled.meters) == ("answered", "posted", {"input": 20, "output": 1})
        assert 0 < settled.cost_pico <= opened.bound_pico
        assert served.purse(everything.root).posted == settled.cost_pico


async def test_a_good_request_that_fails_the_same_way_means_cut(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    provider.always = "err400"
    async with serving(tmp_path, two(provider, other)) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.headers["x-upeti-served-by"]) == (200, "second/gpt-second")
        assert latched(served) == [Subject(Scope.CHANNEL, "first")]
        (latch,) = served.gateway.view.latches
        assert latch.why == "the provider refuses a request that is known to be good (status 400)"
        assert (latch.wire, latch.model) == ("chat_completions", "gpt-first")


@pytest.mark.parametrize("words", ["err500", "err429", "reset", "never", "garbage", "err400-echo"])
async def test_a_probe_that_tells_nothing_latches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: SimProvider, other: SimProvider, words: str
) -> None:
    """Trouble of another kind, or another complaint, is no proof that the account is cut off."""
    monkeypatch.setattr(probes, "_TIMEOUT_S", 0.2)
    provider.next("err400", words)
    async with serving(tmp_path, two(provider, other)) as served:
        assert (await served.ask(CALL)).status == 400
        assert (provider.seen, other.seen, latched(served)) == (2, 0, [])


# -- crowds ----------------------------------------------------------------------------------------------------------------


async def test_a_crowd_waits_for_one_probe(tmp_path: Path, provider: SimProvider, other: SimProvider) -> None:
    provider.always = "err403-slow60"
    async with serving(tmp_path, two(provider, other)) as served:
        answers = await asyncio.gather(*(served.ask(CALL) for _ in range(20)))
        assert {one.headers["x-upeti-served-by"] for one in answers} == {"second/gpt-second"}
        assert len(probed(served)) == 1
        assert latched(served) == [Subject(Scope.CHANNEL, "first")]


async def test_garbage_all_day_costs_a_probe_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: SimProvider, other: SimProvider
) -> None:
    monkeypatch.setattr(probes, "EVERY_S", 0.3)
    monkeypatch.setattr(probes, "KEY_EVERY_S", 60.0)
    async with serving(tmp_path, two(provider, other)) as served:

        async def garbage(key: str) -> int:
            provider.next("err400")
            return (await served.ask(request(chat(max_tokens=5), key=key))).status

        assert [await garbage(KEY) for _ in range(5)] == [400] * 5
        assert len(probed(served)) == 1
        assert await garbage(OTHER_KEY) == 400  # the verdict is fresh
        assert len(probed(served)) == 1
        await asyncio.sleep(0.35)
        assert await garbage(KEY) == 400  # this key had its probe
        assert len(probed(served)) == 1
        assert await garbage(OTHER_KEY) == 400
        assert len(probed(served)) == 2
        assert latched(served) == []


async def test_a_client_that_leaves_does_not_take_the_probe_along(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    limits = {"client_left": "cancel"}
    first = two(provider, other)
    async with serving(
        tmp_path, snapshot([*first.channels.values()], [*first.routes.values()], limits=limits)
    ) as served:
        provider.next("err400", "slow200")
        line = await served.connect()
        line.send(CALL)
        await provider.wait_for(2)
        line.close()
        await until(lambda: len(served.books().settled) == 2, what="the probe's settlement")
        assert [one.ended for one in served.books().settled] == ["refused", "answered"]


async def test_a_worker_that_stops_does_not_wait_for_a_probe(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    first = two(provider, other)
    limits = {"drain_timeout_ms": 100}
    async with serving(
        tmp_path, snapshot([*first.channels.values()], [*first.routes.values()], limits=limits)
    ) as served:
        provider.next("err400", "never")
        line = await served.connect()
        line.send(CALL)
        await provider.wait_for(2)
        await served.stop()
        # The client has the provider's words: nothing else is known.
        assert (await line.answer()).status == 400
        line.close()
        assert [one.ended for one in served.books().settled] == ["refused", "timed_out"]


# -- which request is good ---------------------------------------------------------------------------------------------------

BODIES = {
    "/v1/chat/completions": chat(max_tokens=5),
    "/v1/responses": {"model": "m", "input": "Halo", "max_output_tokens": 20},
    "/v1/completions": {"model": "m", "prompt": "Halo", "max_tokens": 5},
    "/v1/embeddings": {"model": "m", "input": "Halo"},
    "/v1/messages": {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Halo"}]},
}
ASKED = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
    "/v1/responses": {"input": "ping", "store": False, "max_output_tokens": 16},
    "/v1/completions": {"prompt": "ping", "max_tokens": 1},
    "/v1/embeddings": {"input": "ping"},
    "/v1/messages": {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_has_worked_is_asked_again_in_its_smallest_form(
    tmp_path: Path, provider: SimProvider, path: str
) -> None:
    """Behind the route `*` the client names the model: one that has worked is known to be good."""
    kind = "anthropic" if path == "/v1/messages" else "openai_compatible"
    async with serving(tmp_path, snapshot([channel("up", provider, kind)])) as served:
        assert (await served.ask(request(BODIES[path], path))).status == 200
        provider.next("err400")
        assert (await served.ask(request(BODIES[path] | {"model": "made-up"}, path))).status == 400
        asked = provider.requests[2]
        assert (asked.path, asked.json) == (path, {"model": "m"} | ASKED[path])
        settled = served.books().settled[2]
        assert (settled.ended, settled.outcome) == ("answered", "posted")


async def test_nothing_is_known_of_a_name_that_a_client_made_up(tmp_path: Path, provider: SimProvider) -> None:
    """Nobody can have a channel latched by asking for models that do not exist."""
    provider.always = "err400"
    async with serving(tmp_path, snapshot([channel("up", provider)])) as served:
        assert (await served.ask(request(chat("made-up")))).status == 400
        assert (provider.seen, latched(served)) == (1, [])


async def test_what_is_only_relayed_and_a_model_on_this_machine_are_not_probed(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("up", provider), channel("here", other, "embedded")]
    routes = [route("m", candidate("up", "gpt-first")), route("local", candidate("here", "small"))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        provider.always = other.always = "err403"
        assert (await served.ask(request(path="/v1/files/file-1", method="GET"))).status == 403
        assert (await served.ask(request(chat("local")))).status == 403
        assert (provider.seen, other.seen) == (1, 1)


async def test_only_the_model_is_latched_when_nothing_else_is_known_to_fail(
    tmp_path: Path, provider: SimProvider
) -> None:
    provider.always = "err404"  # in Anthropic's shape, in words that no row knows
    message = request(BODIES["/v1/messages"], "/v1/messages")
    routes = [route("m", candidate("up", "claude-one"))]
    async with serving(tmp_path, snapshot([channel("up", provider, "anthropic")], routes)) as served:
        assert (await served.ask(message)).json["error"]["code"] == "channel_latched"
        assert latched(served) == [Subject(Scope.MODEL, "up", "claude-one")]


async def test_a_probe_needs_money_like_everything_else(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    small = BudgetTerms(name="probes", limit="0", feature=FEATURE)
    async with serving(tmp_path, two(provider, other, budgets=(small,)), limits_pico={small.root: 0}) as served:
        provider.next("err400")
        assert (await served.ask(CALL)).status == 400
        assert provider.seen == 1
        provider.always = "err400"
        assert (await served.ask(CALL)).status == 400
        assert latched(served) == []


async def test_without_a_price_nothing_is_probed_where_that_is_refused(
    tmp_path: Path, provider: SimProvider, other: SimProvider
) -> None:
    channels = [channel("first", provider), channel("second", other)]
    routes = [route("m", candidate("first", "gpt-first", prices={}), candidate("second", "gpt-second", order=1))]
    async with serving(tmp_path, snapshot(channels, routes, unpriced="record")) as served:
        provider.next("err400")
        assert (await served.ask(CALL)).status == 400
        assert served.books().outcomes() == [("refused", "posted"), ("answered", "unpriced")]
        served.gateway.cut_off.prober.forget("first")
        provider.next("err400")
        line = await served.connect()
        served.gateway.view.refuse_unpriced = True
        served.gateway.view._ways.clear()
        line.send(CALL)
        assert (await line.answer()).headers["x-upeti-served-by"] == "second/gpt-second"  # it has no price at all
        line.close()


# -- for the keeper ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "verdict", "status"),
    [
        ("", "sound", 200),
        ("sigopenaiquota", "cut", 429),
        ("err401", "cut", 401),
        ("err500", "unsure", 500),
        ("err400", "unsure", 400),
    ],
)
async def test_the_keeper_is_told_what_a_probe_found(
    tmp_path: Path, provider: SimProvider, other: SimProvider, words: str, verdict: str, status: int
) -> None:
    provider.always = words
    async with serving(tmp_path, two(provider, other), limits_pico={}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: keeper.heard, what="the worker's hello")
        keeper.tell(link.ProbeAsk(7, Subject(Scope.CHANNEL, "first"), "", ""))
        (word,) = await until(lambda: [one for one in keeper.heard if isinstance(one, link.Probed)])
        assert (word.request, word.verdict, word.status) == (7, verdict, status)
        keeper.tell(link.ProbeAsk(8, Subject(Scope.MODEL, "first", "gpt-else"), "embeddings", "ignored"))
        keeper.tell(link.ProbeAsk(9, Subject(Scope.CHANNEL, "nowhere"), "", ""))
        found = await until(lambda: [one for one in keeper.heard if isinstance(one, link.Probed)][2:])
        assert found
        by_request = {one.request: one for one in keeper.heard if isinstance(one, link.Probed)}
        assert by_request[9].verdict == "unsure"
        assert by_request[8].verdict == "unsure"  # no route goes there


# -- verdicts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Found(200), Verdict.SOUND),
        (Found(), Verdict.UNSURE),
        (Found(401), Verdict.CUT),
        (Found(402), Verdict.CUT),
        (Found(403), Verdict.CUT),
        (Found(400, Said("t", "c", "No such thing 17")), Verdict.CUT),
        (Found(400, Said("t", "c", "Something else")), Verdict.UNSURE),
        (Found(404, Said("t", "c", "No such thing 17")), Verdict.UNSURE),
        (Found(500, Said("t", "c", "No such thing 17")), Verdict.UNSURE),
        (Found(400, signal=shipped().named("openai-bad-request")), Verdict.SOUND),
        (Found(400, signal=shipped().named("azure-content-filter")), Verdict.SOUND),
        (Found(400, signal=shipped().named("anthropic-organization-disabled")), Verdict.CUT),
        (Found(404, signal=shipped().named("openai-model-gone")), Verdict.UNSURE),
        (Found(429, signal=shipped().named("any-throttle")), Verdict.UNSURE),
        (Found(429, signal=shipped().named("openai-quota")), Verdict.CUT),
        (Found(403, signal=shipped().named("anthropic-permission")), Verdict.CUT),
    ],
)
def test_verdicts(found: Found, verdict: Verdict) -> None:
    assert found.verdict(400, Said("t", "c", "no such thing 42")) is verdict


def test_names_and_numbers_do_not_make_another_complaint() -> None:
    one = Said("t", "c", "Request req_1a2b of 'org' is `blocked` since 2026-11-27.")
    assert alike(one, Said("t", "c", "request REQ_9z8y of 'else' is `held` since 2026-11-28."))
    assert not alike(one, Said("t", "other", one.message))
