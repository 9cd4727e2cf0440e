"""Which budgets a call is held on; and what it meets there: windows, rates, soft and frozen budgets, other currencies."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import (
    KEY,
    MICRO_USD,
    PRICE,
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
from upeti.core.amount import PICO_PER_UNIT, decimal_text
from upeti.gateway import keeper_link as link
from upeti.gateway.holds import Holds
from upeti.gateway.purses import PurseFinder
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price
from upeti.money.window import window_at
from upeti.sim.provider import SimProvider

NOW_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z
DAY_NS = 86_400 * 10**9
CALL = request(chat(max_tokens=5))
BOUND_PICO = (2 * len(CALL.partition(b"\r\n\r\n")[2]) + 8 * 5) * MICRO_USD


class Nobody:
    """A keeper that cannot be reached."""

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        return False

    def give_back(self, budget: str, amount_pico: int, posted_pico: int, **_: Any) -> bool:
        return False


def budget(name: str, limit: str = "1", **terms: Any) -> BudgetTerms:
    return BudgetTerms(name=name, limit=limit, **terms)


def found(terms: list[BudgetTerms], caller: Caller, feature: str = "", currency: str = "USD") -> Any:
    return PurseFinder(terms, frozenset()).find(caller, feature, currency, NOW_NS, Holds(Nobody()))


# -- which ones ---------------------------------------------------------------------------------------------------------

TERMS = [
    budget("everything"),
    budget("acme", tenant="acme"),
    budget("shop", tenant="acme", project="shop"),
    budget("any-shop", project="shop"),
    budget("k1", key="k1"),
    budget("search", feature="search"),
    budget("acme-search", tenant="acme", feature="search"),
    budget("k1-search", key="k1", feature="search"),
    budget("other", tenant="other"),
]


@pytest.mark.parametrize(
    ("caller", "feature", "expected"),
    [
        (
            Caller("k1", "acme", "shop", budgets=("key:k1",), limit="5"),
            "search",
            ["everything", "search", "acme", "acme-search", "any-shop", "shop", "k1", "key:k1", "k1-search"],
        ),
        (Caller("k2", "acme", "shop"), "chat", ["everything", "acme", "any-shop", "shop"]),
        (Caller("k3", "other", ""), "", ["everything", "other"]),
        (Caller("k3", "third", "shop"), "search", ["everything", "search", "any-shop"]),
    ],
)
def test_a_budget_holds_for_calls_that_have_all_its_selectors(
    caller: Caller, feature: str, expected: list[str]
) -> None:
    assert list(found(TERMS, caller, feature).budgets) == expected


def test_what_was_found_is_kept_until_the_first_window_ends() -> None:
    caller = Caller("k1", "acme", "")
    finder = PurseFinder([budget("m", window="month"), budget("d", window="day", zone="Asia/Jakarta")], frozenset())
    holds = Holds(Nobody())
    first = finder.find(caller, "", "USD", NOW_NS, holds)
    assert first.budgets == ("d@2026-11-24", "m@2026-11")
    assert first.until_ns == window_at("day", "Asia/Jakarta", NOW_NS).ends_ns
    assert finder.find(caller, "", "USD", first.until_ns - 1, holds) is first
    assert finder.find(caller, "", "USD", first.until_ns, holds).budgets == ("d@2026-11-25", "m@2026-11")
    assert holds.purse("m@2026-11").resets_ns == window_at("month", "UTC", NOW_NS).ends_ns


def test_only_budgets_in_the_calls_currency_are_counted() -> None:
    caller = Caller("k1", "acme", "")
    terms = [budget("usd"), budget("idr", unit="IDR", soft=True)]
    assert found(terms, caller).budgets == ("usd",)
    assert not found(terms, caller).stopped
    rupiah = found(terms, caller, currency="IDR")
    assert (rupiah.budgets, rupiah.stopped) == (("idr+IDR",), True)


# -- over the real socket ----------------------------------------------------------------------------------------------


def one_budget(provider: SimProvider, *budgets: BudgetTerms, **changes: Any) -> Snapshot:
    callers = {KEY: Caller("k1", "acme", "shop")}
    return snapshot([channel("up", provider)], callers=callers, budgets=budgets, **changes)


def limits(*budgets: BudgetTerms) -> dict[str, int]:
    return {terms.root: terms.limit_pico for terms in budgets}


async def test_a_refusal_says_which_budget_what_is_left_and_when_it_resets(
    tmp_path: Path, provider: SimProvider
) -> None:
    month = budget("acme-month", "0.0005", window="month", zone="Asia/Jakarta", tenant="acme")
    async with serving(tmp_path, one_budget(provider, month), limits_pico=limits(month)) as served:
        assert (await served.ask(CALL)).status == 200
        refused = await served.ask(request(chat("m", max_tokens=5, user="x" * 300)))
        assert (refused.status, refused.code) == (429, "budget_exceeded")
        ends_ns = month.window_at(served.gateway.now_ns()).ends_ns
        message = refused.json["error"]["message"]
        left = re.fullmatch(
            r"The budget 'acme-month' has (0\.000\d+) of 0\.0005 USD left until (\S+); this call can cost up to 0\.000\d+\. "
            r"Lower max_tokens,( wait until then,)? or have the limit raised\.",
            message,
        )
        assert left is not None, message
        assert datetime.fromisoformat(left[2]).timestamp() * 10**9 == ends_ns
        assert left[2].endswith("T00:00:00+07:00")
        if left[3]:
            assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
        assert refused.headers["x-should-retry"] == "false"  # nobody's library waits for weeks
        assert [one.code for one in served.books().refused] == ["budget_exceeded"]


async def test_the_next_window_begins_with_all_of_the_limit(tmp_path: Path, provider: SimProvider) -> None:
    day = budget("day", decimal_text(BOUND_PICO + 20 * MICRO_USD), window="day")
    async with serving(tmp_path, one_budget(provider, day), limits_pico=limits(day)) as served:
        first = await served.ask(CALL)
        assert (first.status, (await served.ask(CALL)).status) == (200, 429)
        # A call that began before the window's end is settled in it, whatever the clock says then.
        now_ns = served.gateway.now_ns()
        served.gateway.now_ns = served.gateway.holds._now_ns = lambda: now_ns + DAY_NS
        line = await served.connect()
        line.send(request(chat("m-slow100", max_tokens=5)))
        await provider.wait_for(2)
        served.gateway.now_ns = served.gateway.holds._now_ns = lambda: now_ns + 2 * DAY_NS
        assert (await line.answer()).status == 200
        line.close()
        assert (await served.ask(CALL)).status == 200
        ids = [day.id_at(now_ns + days * DAY_NS) for days in range(3)]
        assert [one.budgets for one in served.books().opened] == [(id,) for id in ids]
        assert all(served.purse(id).posted > 0 for id in ids)
        # What is left of windows that are over goes back.
        served.gateway.holds.return_idle()
        assert [served.purse(id).lease for id in ids[:2]] == [0, 0]
        served.gateway.holds._now_ns = lambda: now_ns + 4 * DAY_NS
        keeper = served.keeper
    assert keeper is not None
    assert all(keeper.budgets[id].leased_pico == 0 for id in ids)


async def test_a_lower_limit_is_held_at_once(tmp_path: Path, provider: SimProvider) -> None:
    wide = budget("b", "1")
    async with serving(tmp_path, one_budget(provider, wide), limits_pico=limits(wide)) as served:
        assert (await served.ask(CALL)).status == 200
        assert served.keeper is not None
        assert served.purse("b").lease > 100 * BOUND_PICO
        narrow = budget("b", "0.000001")
        served.keeper.budgets["b"].limit_pico = narrow.limit_pico
        served.swap(budgets=(narrow,))
        refused = await served.ask(CALL)
        assert refused.status == 429
        assert "has 0 of 0.000001 USD left" in refused.json["error"]["message"]
        assert served.keeper.budgets["b"].leased_pico == 0


async def test_a_soft_budget_counts_and_never_refuses(tmp_path: Path, provider: SimProvider) -> None:
    soft = budget("soft", "0", soft=True)
    async with serving(tmp_path, one_budget(provider, soft), limits_pico=limits(soft)) as served:
        keeper = served.keeper
        assert keeper is not None
        for _ in range(3):
            answered = await served.ask(CALL)
            assert answered.status == 200
            assert "x-upeti-budget-left" not in answered.headers
        served.gateway.holds.return_idle()
        spent = sum(one.cost_pico for one in served.books().settled)
        await until(lambda: keeper.budgets["soft"].spent_pico == spent > 0, what="the report")
        assert not [word for word in keeper.heard if isinstance(word, link.LeaseAsk)]
        # What has no price is recorded, as without a budget.
        served.swap(unpriced="record", routes={"*": route("*", candidate("up", prices={}))})
        assert (await served.ask(CALL)).headers["x-upeti-cost"] == "unknown"


async def test_a_price_in_another_currency_is_refused_with_its_cure(tmp_path: Path, provider: SimProvider) -> None:
    rupiah = budget("rupiah", "1000000", unit="IDR")
    async with serving(tmp_path, one_budget(provider, rupiah), limits_pico=limits(rupiah)) as served:
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (400, "budget_currency")
        assert "'rupiah' is in IDR and the price of this call in USD" in refused.json["error"]["message"]
        in_rupiah = Price("idr", "IDR", 0, {name: 16_000 * pico for name, pico in PRICE.pico.items()})
        served.swap(routes={"*": route("*", candidate("up", prices={"*": (in_rupiah,)}))})
        answered = await served.ask(CALL)
        assert (answered.status, answered.headers["x-upeti-currency"]) == (200, "IDR")
        assert served.purse("rupiah+IDR").posted == served.books().settled[-1].cost_pico > 0


async def test_a_cost_above_its_bound_freezes_the_nearest_budget_until_it_is_released(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, near = budget("wide", "1"), budget("near", "1", tenant="acme", window="month")
    async with serving(tmp_path, one_budget(provider, wide, near), limits_pico=limits(wide, near)) as served:
        keeper = served.keeper
        assert keeper is not None
        served.notices_allowed = {"above bound"}
        monkeypatch.setattr("upeti.gateway.call.Call.bound_pico", lambda *_: 7)
        assert (await served.ask(CALL)).status == 200
        monkeypatch.undo()
        opened, settled = served.books().attempt()
        assert settled.cost_pico > opened.bound_pico == 7  # in full
        for each in (wide, near):
            assert served.purse(each.id_at(served.gateway.now_ns())).posted == settled.cost_pico
        served.gateway.holds.return_idle()
        words = await until(lambda: [w for w in keeper.heard if getattr(w, "overrun", "")], what="the word of it")
        assert [word.budget for word in words] == [near.id_at(served.gateway.now_ns())]
        assert "above its bound 0.000000000007" in words[0].overrun
        # The keeper freezes it, with the next snapshot.
        served.swap(frozen=frozenset({"near"}))
        refused = await served.ask(CALL)
        assert (refused.status, refused.code) == (429, "budget_frozen")
        assert "`upeti budget release near`" in refused.json["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        served.gateway.holds.return_idle()
        assert len([word for word in keeper.heard if getattr(word, "overrun", "")]) == len(words)  # it was heard
        served.swap(frozen=frozenset())
        assert (await served.ask(CALL)).status == 200


# -- calls and tokens a minute --------------------------------------------------------------------------------------------


def rate(limit: int, unit: str) -> BudgetTerms:
    return BudgetTerms(name="rate", limit=str(limit), unit=unit, window="minute", shares=())


async def stop_clock(served: Served) -> int:
    """Stop the worker's clock ten seconds into a minute; return it."""
    now_ns = served.gateway.now_ns() // (60 * 10**9) * 60 * 10**9 + 10 * 10**9
    served.gateway.now_ns = served.gateway.holds._now_ns = lambda: now_ns
    return now_ns


async def test_calls_a_minute(tmp_path: Path, provider: SimProvider) -> None:
    terms = rate(2, "calls")
    async with serving(tmp_path, one_budget(provider, terms), limits_pico=limits(terms)) as served:
        now_ns = await stop_clock(served)
        statuses = [(await served.ask(CALL)).status for _ in range(2)]
        refused = await served.ask(CALL)
        assert (statuses, refused.status, refused.code) == ([200, 200], 429, "rate_limit_exceeded")
        assert refused.json["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "50"
        assert "x-should-retry" not in refused.headers  # the library waits, and tries again
        message = refused.json["error"]["message"]
        assert message == (
            "The rate limit 'rate' has 0 of 2 calls left in this minute. Send fewer calls, try again in 50 s, or have "
            "the limit raised."
        )
        assert [one.budgets for one in served.books().opened] == [()] * 2  # budgets are of money
        later_ns = now_ns + 50 * 10**9
        served.gateway.now_ns = served.gateway.holds._now_ns = lambda: later_ns
        assert (await served.ask(CALL)).status == 200


async def test_a_call_counts_once_however_often_it_is_tried(tmp_path: Path, provider: SimProvider) -> None:
    terms = rate(5, "calls")
    first = one_budget(provider, terms, routes=[route("*", candidate("up"), attempts_max=3)])
    async with serving(tmp_path, first, limits_pico=limits(terms)) as served:
        now_ns = await stop_clock(served)
        assert (await served.ask(request(chat("m-err500", max_tokens=5)))).status == 500
        assert len(served.books().opened) == 3
        assert served.purse(terms.id_at(now_ns)).posted == PICO_PER_UNIT


async def test_tokens_a_minute(tmp_path: Path, provider: SimProvider) -> None:
    body_bytes = len(CALL.partition(b"\r\n\r\n")[2])
    terms = rate(body_bytes + 5 + 12, "tokens")  # one call's bound, and a little
    async with serving(tmp_path, one_budget(provider, terms), limits_pico=limits(terms)) as served:
        now_ns = await stop_clock(served)
        assert (await served.ask(CALL)).status == 200
        used = sum((served.books().settled[0].meters or {}).values())
        assert 12 < used < body_bytes
        assert served.purse(terms.id_at(now_ns)).posted == used * PICO_PER_UNIT
        refused = await served.ask(CALL)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "50")
        assert f"this call can take up to {body_bytes + 5}" in refused.json["error"]["message"]
        # What is larger than the whole limit never fits, and waiting does not help.
        never = await served.ask(request(chat(max_tokens=500)))
        assert never.status == 429
        assert "retry-after" not in never.headers
        # Tokens that cannot be bounded cannot be held.
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]
        unbounded = await served.ask(request({"model": "m", "messages": picture, "max_tokens": 5}))
        assert (unbounded.status, json.loads(unbounded.body)["error"]["code"]) == (400, "tokens_unbounded")


async def test_money_is_not_held_when_the_rate_refuses(tmp_path: Path, provider: SimProvider) -> None:
    terms = (budget("money"), rate(1, "calls"))
    async with serving(tmp_path, one_budget(provider, *terms), limits_pico=limits(*terms)) as served:
        await stop_clock(served)
        assert [(await served.ask(CALL)).status for _ in range(2)] == [200, 429]
        assert (served.purse("money").held, len(served.books().opened)) == (0, 1)
