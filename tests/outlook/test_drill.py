"""The replay: who would take each call, what it would cost, and that nothing is counted twice or not at all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.amount import PICO_PER_UNIT
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price, cost_of
from upeti.outlook.drill import DIMENSIONS, Line, Seen, Shadow, folded, percentile
from upeti.outlook.remaining import GAPS, Asked, Candidate, Channel, Gap, Lack, Remaining, World, drawn
from upeti.rights.data_policy import DataPolicy

OPENAI = frozenset({"chat_completions", "embeddings"})
DAY_NS = 86_400 * 10**9


def price(name: str, units: int, from_ns: int = 0, currency: str = "USD", tier: str = "") -> Price:
    return Price(name, currency, from_ns, {"input": units, "output": 3 * units}, tier=tier)


DEAR = {"*": (price("dear", 10), price("dearer", 20, DAY_NS), price("dear-flex", 4, tier="flex"))}
CHEAP = {"*": (price("cheap", 2),)}


def candidate(channel: str, order: int = 0, model: str = "", weight: int = 1, **prices: Any) -> Candidate:
    return Candidate(channel, model, order, weight, prices.get("prices", CHEAP))


def world(*candidates: Candidate, **changes: Any) -> World:
    """A route ``m`` with these candidates behind the channel ``a``."""
    channels = {name: Channel(name, OPENAI) for name in ("a", "b", "c")}
    channels["claude"] = Channel("claude", frozenset({"messages"}))
    fields = {"channels": channels, "routes": {"m": (candidate("a"), *candidates)}} | changes
    return World(**fields)


def asked(**changes: Any) -> Asked:
    fields = {"tenant": "acme", "project": "", "key": "k1", "feature": "search", "route": "m", "channel": "a"}
    return Asked(**fields | {"model": "gpt", "wire": "chat_completions", "tier": ""} | changes)


def seen(number: int = 0, **changes: Any) -> Seen:
    names = {name: changes.pop(name) for name in list(changes) if name in Asked._fields}
    fields = {"at_ns": number, "answered": True, "meters": {"input": 100, "output": 10}, "cost_pico": 260}
    return Seen(asked(**names), f"req_{number}", **fields | changes)


def lack(found: object) -> Lack:
    assert isinstance(found, Lack)
    return found


@pytest.mark.parametrize(
    ("gap", "case", "changes"),
    [
        (Gap.NO_CANDIDATE, world(), {}),
        (Gap.NO_CANDIDATE, world(candidate("a", 1, "other")), {}),
        # An own model left this very call to the one that is cut off: it would leave it again.
        (Gap.NO_CANDIDATE, world(candidate("b", 1), channels={"b": Channel("b", OPENAI, partial=True)}), {}),
        (Gap.NO_API, world(candidate("claude", 1)), {}),
        (Gap.NO_RIGHT, world(candidate("b", 1), channels={"b": Channel("b", OPENAI, serves=False)}), {}),
        (Gap.NO_POLICY, world(candidate("b", 1), policies=(DataPolicy("eu", regions=frozenset({"eu"})),)), {}),
        (Gap.NO_POLICY, world(candidate("b", 1), policies=(DataPolicy("short", retention_days_max=30),)), {}),
        (Gap.LATCHED, world(candidate("b", 1), channels={"b": Channel("b", OPENAI, latch="cut off")}), {}),
        (
            Gap.LATCHED,
            world(candidate("b", 1, "x"), channels={"b": Channel("b", OPENAI, models_latched=frozenset({"x"}))}),
            {},
        ),
        (Gap.FAILED, world(candidate("b", 1)), {"failed": frozenset({"b"})}),
        (Gap.NO_PRICE, world(candidate("b", 1, prices={})), {}),
        # A limit needs a price even where the operator records what has none.
        (
            Gap.NO_PRICE,
            world(candidate("b", 1, prices={}), refuse_unpriced=False, budgets=(BudgetTerms(name="all", limit="5"),)),
            {},
        ),
    ],
)
def test_each_reason_is_told_with_its_cure(gap: Gap, case: World, changes: dict[str, Any]) -> None:
    found = lack(Remaining(case, "a").options(asked(**changes)))
    assert found.gap is gap
    assert found.cure("m")
    assert "{" not in found.cure("m")


def test_every_reason_has_its_words() -> None:
    assert set(GAPS) == set(Gap)


def test_of_several_reasons_the_one_nearest_to_a_solution_is_told() -> None:
    case = world(candidate("claude", 1), candidate("b", 2, prices={}), candidate("a", 3))
    found = lack(Remaining(case, "a").options(asked()))
    assert (found.gap, found.channel) == (Gap.NO_PRICE, "b")


def test_the_next_order_is_asked_when_the_first_cannot() -> None:
    case = world(candidate("claude", 1), candidate("b", 2, "big", prices=DEAR), candidate("c", 3))
    options = Remaining(case, "a").options(asked())
    assert isinstance(options, tuple)
    assert [(one.channel, one.model) for one in options] == [("b", "big")]


def test_a_path_without_a_model_is_told_where_it_goes() -> None:
    found = lack(Remaining(world(), "a").options(asked(route="")))
    assert "default_channel" in found.cure("")


def test_among_equals_a_call_is_drawn_by_weight_and_always_the_same() -> None:
    options = Remaining(world(candidate("b", 1, weight=3), candidate("c", 1, weight=1)), "a").options(asked())
    assert isinstance(options, tuple)
    names = [f"req_{number}" for number in range(4000)]
    counts = Counter(drawn(options, name).channel for name in names)
    assert counts == Counter(drawn(options, name).channel for name in names)
    assert abs(counts["b"] - 3000) < 150  # the standard deviation is 27


def test_the_price_is_of_the_day_and_of_the_tier() -> None:
    def after(**changes: Any) -> dict[str, int]:
        replay = Shadow(Remaining(world(candidate("b", 1, prices=DEAR)), "a"))
        replay.add(seen(**changes))
        return replay.total.after

    assert after() == {"USD": 100 * 10 + 10 * 30}
    assert after(at_ns=DAY_NS) == {"USD": 100 * 20 + 10 * 60}
    assert after(tier="flex") == {"USD": 100 * 4 + 10 * 12}
    assert after(tier="priority") == {"USD": 100 * 10 + 10 * 30}  # it has none: as usual


@pytest.mark.parametrize(
    "changes",
    [{"meters": None}, {"meters": {"audio_seconds": 3}}, {"cost_pico": None}],
    ids=["no meters", "no cell", "unpriced"],
)
def test_what_is_not_known_is_in_no_sum_and_counted(changes: dict[str, Any]) -> None:
    replay = Shadow(Remaining(world(candidate("b", 1)), "a"))
    replay.add(seen(1, **changes))
    replay.add(seen(2))
    total = replay.total
    assert (total.calls, total.survived, total.compared) == (2, 2, 1)
    assert (total.before, total.after) == ({"USD": 260}, {"USD": 100 * 2 + 10 * 6})


def test_a_budget_that_the_next_price_uses_up_refuses_from_then_on() -> None:
    dear = {"*": (price("dear", PICO_PER_UNIT // 100),)}  # 1.30 USD a call
    limits = (BudgetTerms(name="acme", limit="4", tenant="acme"), BudgetTerms(name="other", limit="0", tenant="other"))
    replay = Shadow(Remaining(world(candidate("b", 1, prices=dear), budgets=limits), "a"), {"acme": PICO_PER_UNIT})
    for number in range(4):
        replay.add(seen(number))
    assert (replay.total.survived, replay.total.lost) == (2, 2)  # 1 + 1.30 + 1.30, and the next would pass 4
    (loss,) = replay.losses.values()
    assert (loss.lack.gap, loss.calls, loss.features) == (Gap.NO_BUDGET, 2, {"search": 2})
    assert "acme" in loss.lack.cure("m")


def test_other_channels_spend_the_same_budget_and_windows_begin_anew() -> None:
    dear = {"*": (price("dear", PICO_PER_UNIT // 130),)}
    limits = (BudgetTerms(name="day", limit="1.5", window="day"), BudgetTerms(name="soft", limit="0", soft=True))
    replay = Shadow(Remaining(world(candidate("b", 1, prices=dear), budgets=limits), "a"))
    replay.add(seen(1, channel="c", cost_pico=PICO_PER_UNIT))
    replay.add(seen(2))  # one dollar more does not fit
    replay.add(seen(DAY_NS + 1))
    assert (replay.total.calls, replay.total.survived) == (2, 1)


def test_a_budget_in_another_currency_refuses_and_says_so() -> None:
    case = world(candidate("b", 1), budgets=(BudgetTerms(name="idr", limit="100000", unit="IDR"),))
    replay = Shadow(Remaining(case, "a"))
    replay.add(seen())
    ((loss),) = replay.losses.values()
    assert "IDR" in loss.lack.detail


def test_what_the_channel_did_not_answer_is_not_replayed() -> None:
    replay = Shadow(Remaining(world(candidate("b", 1)), "a"))
    replay.add(seen(answered=False))
    replay.add(seen(channel="b"))
    assert replay.total == Line()


CALLS = st.lists(
    st.builds(
        seen,
        st.integers(0, 3 * DAY_NS),
        channel=st.sampled_from(["a", "a", "a", "b"]),
        feature=st.sampled_from(["search", "chat", ""]),
        tenant=st.sampled_from(["acme", "warung"]),
        route=st.sampled_from(["m", "n", "*", "gone"]),
        model=st.sampled_from(["gpt", "mini"]),
        wire=st.sampled_from(["chat_completions", "messages", "other"]),
        tier=st.sampled_from(["", "flex"]),
        failed=st.sampled_from([frozenset(), frozenset({"b"})]),
        answered=st.booleans(),
        meters=st.none()
        | st.dictionaries(st.sampled_from(["input", "output", "audio_seconds"]), st.integers(0, 10**6)),
        cost_pico=st.none() | st.integers(0, 10**15),
        currency=st.sampled_from(["USD", "IDR"]),
    ),
    max_size=40,
)
WORLDS = st.builds(
    lambda candidates, budgets, refuse: msgspec.structs.replace(
        world(*candidates, refuse_unpriced=refuse, budgets=budgets),
        routes={"m": (candidate("a"), *candidates), "n": (*candidates, candidate("a", 9)), "*": (candidate("a"),)},
    ),
    st.lists(
        st.builds(
            candidate,
            st.sampled_from(["a", "b", "c", "claude"]),
            st.integers(0, 2),
            st.sampled_from(["", "x"]),
            st.integers(0, 3),
            prices=st.sampled_from([CHEAP, DEAR, {}]),
        ),
        max_size=4,
    ),
    st.sampled_from(
        [(), (BudgetTerms(name="all", limit="0.000000001"),), (BudgetTerms(name="idr", limit="9", unit="IDR"),)]
    ),
    st.booleans(),
)


@given(WORLDS, CALLS)
def test_survived_and_lost_are_all_and_sums_are_exact(case: World, calls: list[Seen]) -> None:
    calls = sorted(calls, key=lambda one: one.at_ns)
    replay = Shadow(Remaining(case, "a"))
    for one in calls:
        replay.add(one)
    answered = [one for one in calls if one.answered and one.asked.channel == "a"]
    total = replay.total
    assert total.calls == len(answered) == total.survived + total.lost
    assert sum(loss.calls for loss in replay.losses.values()) == total.lost
    assert total.compared <= total.survived
    for name in DIMENSIONS:
        added = Line()
        for line in replay.by[name].values():
            added.add(line)
        assert added == total
    moved = Line()
    for line in replay.moves.values():
        moved.add(line)
    assert (moved.calls, moved.before, moved.after) == (total.survived, total.before, total.after)
    for currency in ("USD", "IDR"):
        spent = sum(one.cost_pico or 0 for one in answered if one.currency == currency and one.cost_pico is not None)
        assert total.spend.get(currency, 0) == spent
    # Each line's sum is that of its calls, priced one by one.
    by_hand = 0
    remaining = Remaining(case, "a")
    lost = {(loss.route, loss.model) for loss in replay.losses.values() if loss.lack.gap is Gap.NO_BUDGET}
    if not lost:
        for one in answered:
            options = remaining.options(one.asked)
            at = drawn(options, one.call_id).price_at(one.at_ns) if isinstance(options, tuple) else None
            cost = cost_of(at, one.meters) if at is not None and one.meters is not None else None
            by_hand += cost if cost is not None and one.cost_pico is not None else 0
        assert sum(total.after.values()) == by_hand


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 9), max_size=9), st.integers(1, 5))
def test_folding_many_names_into_one_loses_nothing(counts: dict[str, int], rows: int) -> None:
    lines = {name: Line(calls=count, survived=count // 2, spend={"USD": count}) for name, count in counts.items()}
    kept = list(folded(lines, rows))
    assert len(kept) <= rows + 1
    assert sum(line.calls for _, line in kept) == sum(counts.values())
    assert sum(line.spend["USD"] for _, line in kept) == sum(counts.values())


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[int], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert all(
        sum(value <= other for value in values) * 100 < percent * len(values) for other in values if other < found
    )


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 99) is None
