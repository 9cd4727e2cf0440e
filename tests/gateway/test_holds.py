"""Money held and settled: the table of endings, purses that go all or none, budgets over the real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gateway_side import KEY, MICRO_USD, candidate, channel, chat, request, route, serving, snapshot
from upeti.core import meters as m
from upeti.core.amount import decimal_text
from upeti.core.errors import BudgetExceeded
from upeti.core.events import Outcome
from upeti.gateway.fiber import Fiber
from upeti.gateway.holds import ENDINGS, RECORDED_MAX, Ended, Holds, Purse, Rule, settle
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.money.price import Price
from upeti.sim.provider import SimProvider

PRICE = Price("p", "USD", 0, {m.INPUT: 2, m.OUTPUT: 8})
HUGE = Price("h", "USD", 0, {m.INPUT: RECORDED_MAX})

# -- how a hold is settled ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "meters", "price", "bound", "expected"),
    [
        (Ended.ANSWERED, {m.INPUT: 10, m.OUTPUT: 5}, PRICE, 100, (Outcome.POSTED, 60)),
        (Ended.ANSWERED, {m.INPUT: 0, m.OUTPUT: 0}, PRICE, 100, (Outcome.POSTED, 0)),
        # Above its bound is an error of the bound, and posted in full.
        (Ended.ANSWERED, {m.INPUT: 100}, PRICE, 100, (Outcome.POSTED, 200)),
        (Ended.ANSWERED, None, PRICE, 100, (Outcome.ESTIMATED, 100)),
        (Ended.ANSWERED, {m.INPUT_AUDIO: 1}, PRICE, 100, (Outcome.UNPRICED, 0)),
        (Ended.ANSWERED, {m.INPUT: 10}, None, None, (Outcome.UNPRICED, 0)),
        (Ended.ANSWERED, None, None, None, (Outcome.UNPRICED, 0)),
        # What cannot be bounded cannot be estimated.
        (Ended.ANSWERED, None, PRICE, None, (Outcome.UNPRICED, 0)),
        (Ended.ANSWERED, {m.INPUT: 10}, PRICE, None, (Outcome.POSTED, 20)),
        # What no record holds is not believed.
        (Ended.ANSWERED, {m.INPUT: 1}, HUGE, 7, (Outcome.POSTED, RECORDED_MAX)),
        (Ended.ANSWERED, {m.INPUT: 2}, HUGE, 7, (Outcome.ESTIMATED, 7)),
        (Ended.ANSWERED, {m.INPUT: 2}, HUGE, None, (Outcome.UNPRICED, 0)),
        (Ended.CUT, {m.INPUT: 10}, PRICE, 100, (Outcome.POSTED, 20)),
        (Ended.CUT, None, PRICE, 100, (Outcome.ESTIMATED, 100)),
        (Ended.REFUSED, None, PRICE, 100, (Outcome.POSTED, 0)),
        (Ended.REFUSED, None, None, None, (Outcome.POSTED, 0)),
        (Ended.REFUSED_UNSURE, None, PRICE, 100, (Outcome.ESTIMATED, 100)),
        (Ended.NOT_SENT, None, PRICE, 100, (Outcome.VOIDED, 0)),
        (Ended.NOT_SENT, None, None, None, (Outcome.VOIDED, 0)),
    ],
)
def test_settle(
    ended: Ended,
    meters: dict[str, int] | None,
    price: Price | None,
    bound: int | None,
    expected: tuple[Outcome, int],
) -> None:
    assert settle(ended, meters, price, bound) == expected


cells = st.dictionaries(st.sampled_from(m.ALL_METERS), st.integers(0, 10**12), max_size=4)
counted = st.none() | st.dictionaries(st.sampled_from(m.ALL_METERS), st.integers(0, 1 << 32), max_size=4)


@given(
    st.sampled_from(list(Ended)),
    counted,
    st.none() | cells.map(lambda pico: Price("p", "USD", 0, pico)),
    st.none() | st.integers(0, RECORDED_MAX),
)
def test_a_settlement_is_never_below_zero_nor_beyond_what_a_record_holds(
    ended: Ended, meters: dict[str, int] | None, price: Price | None, bound: int | None
) -> None:
    outcome, cost_pico = settle(ended, meters, price, bound)
    assert 0 <= cost_pico <= RECORDED_MAX
    rule = ENDINGS[ended]
    assert (outcome is Outcome.VOIDED) == (rule is Rule.VOID)
    if rule is Rule.NOTHING or outcome is Outcome.UNPRICED:
        assert cost_pico == 0
    if outcome is Outcome.ESTIMATED:
        assert cost_pico == bound
    if outcome is Outcome.POSTED and rule is Rule.METERS:
        assert price is not None
        assert cost_pico == sum(
            count * price.pico.get(name, price.pico.get({m.OUTPUT_REASONING: m.OUTPUT}.get(name, m.INPUT), 0))
            for name, count in (meters or {}).items()
        )


# -- purses ------------------------------------------------------------------------------------------------------------


class Treasury:
    """Notes what it is asked; answers only when a test does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.returned: list[tuple[str, int, int, bool]] = []
        self.reachable = True

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        if self.reachable:
            self.asked.append((budget, need_pico, posted_pico))
        return self.reachable

    def give_back(
        self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool = False, overrun: str = ""
    ) -> bool:
        if self.reachable:
            self.returned.append((budget, amount_pico, posted_pico, recalled))
        return self.reachable


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=4),
    st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), st.integers(0, 30)), max_size=12),
)
def test_a_bound_is_held_on_all_purses_or_on_none(leases: list[int], bounds: list[tuple[set[int], int]]) -> None:
    holds = Holds(Treasury())
    for number, lease in enumerate(leases):
        holds.granted(f"b{number}", lease, 0, lease)
    for numbers, bound in bounds:
        purses = holds.purses_of(tuple(f"b{number}" for number in sorted(numbers) if number < len(leases)))
        before = [purse.held for purse in purses]
        fits = all(purse.lease - purse.held >= bound for purse in purses)
        assert holds.place(purses, bound) is fits
        assert [purse.held for purse in purses] == [held + (bound if fits else 0) for held in before]
        assert all(0 <= purse.held <= purse.lease for purse in purses)


def waiting_for(holds: Holds, purses: tuple[Purse, ...], bound: int) -> list[Any]:
    """Start to wait for a hold; return a list that fills with its end: None, or an error."""
    ends: list[Any] = []
    Fiber(lambda fiber, error: ends.append(error), None).start(holds.place_with_more(purses, bound))
    return ends


def test_who_waits_is_served_by_a_grant_or_refused_by_its_end() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    purses = holds.purses_of(("b",))
    first, second, third = (waiting_for(holds, purses, bound) for bound in (10, 20, 40))
    assert treasury.asked == [("b", 10, 0)]  # one word at a time
    holds.granted("b", 15, 100, 200)
    assert (first, second, third) == ([None], [], [])
    assert treasury.asked[1:] == [("b", 15, 0)]  # the second's 20, less the 5 that are left
    holds.granted("b", 15, 0, 200)
    assert (second, third) == ([None], [])
    assert treasury.asked[2:] == [("b", 40, 0)]
    holds.granted("b", 0, 0, 200)
    ((error,),) = (third,)
    assert isinstance(error, BudgetExceeded)
    assert (purses[0].held, purses[0].lease) == (30, 30)
    assert "'b' has 0 of 0.0000000002 USD left" in error.message
    assert "0.00000000004" in error.message


def test_what_one_purse_grants_is_not_held_when_another_refuses() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    purses = holds.purses_of(("key", "tenant"))
    ended = waiting_for(holds, purses, 10)
    holds.granted("key", 10, 90, 100)
    holds.granted("tenant", 0, 0, 5)
    assert isinstance(ended[0], BudgetExceeded)
    assert "'tenant'" in ended[0].message
    assert [purse.held for purse in purses] == [0, 0]


def test_a_hold_that_ends_makes_room_for_who_waits() -> None:
    holds = Holds(Treasury())
    purses = holds.purses_of(("b",))
    holds.granted("b", 10, 0, 10)
    assert holds.place(purses, 10)
    ended = waiting_for(holds, purses, 10)
    purses[0].held -= 10
    purses[0].released()
    assert ended == [None]
    assert purses[0].held == 10


def test_without_a_keeper_who_waits_asks_again_when_it_comes() -> None:
    treasury = Treasury()
    treasury.reachable = False
    holds = Holds(treasury)
    ended = waiting_for(holds, holds.purses_of(("b",)), 10)
    assert (ended, treasury.asked) == ([], [])
    treasury.reachable = True
    holds.connected()
    assert treasury.asked == [("b", 10, 0)]
    holds.granted("b", 10, 0, 10)
    assert ended == [None]


def test_leases_go_back_when_they_are_recalled_or_not_used() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    purses = holds.purses_of(("b",))
    holds.granted("b", 100, 0, 100)
    assert holds.place(purses, 30)
    holds.recalled("b")
    assert treasury.returned == [("b", 70, 0, True)]
    assert (purses[0].lease, purses[0].left) == (30, 70)
    holds.granted("b", 50, 20, 100)
    holds.return_idle()  # it was used, and there is nothing new to say
    assert treasury.returned[1:] == []
    holds.return_idle()
    assert treasury.returned[1:] == [("b", 50, 0, False)]
    assert holds.leases() == {"b": (30, 0)}
    # What cannot be said is not done.
    holds.granted("b", 5, 0, 100)
    treasury.reachable = False
    holds.return_all()
    assert holds.leases() == {"b": (35, 0)}


# -- budgets, over the real socket ---------------------------------------------------------------------------------------

CALL = request(chat(max_tokens=5))


def budgeted(provider: SimProvider, *budgets: str, **options: Any) -> Snapshot:
    callers = {KEY: Caller("k1", "acme", "shop", budgets=budgets or ("key:k1",))}
    return snapshot([channel("up", provider)], callers=callers, **options)


def bound_pico(sent: bytes) -> int:
    """What ``CALL`` can cost: all of its bytes as input, its cap as output."""
    body = sent.partition(b"\r\n\r\n")[2]
    return (2 * len(body) + 8 * 5) * MICRO_USD


async def test_an_answer_says_what_is_left(tmp_path: Path, provider: SimProvider) -> None:
    limit = 10**10
    async with serving(tmp_path, budgeted(provider), limits_pico={"key:k1": limit}) as served:
        spent = 0
        for _ in range(3):
            answered = await served.ask(CALL)
            spent += served.books().settled[-1].cost_pico
            assert answered.headers["x-upeti-budget-left"] == decimal_text(limit - spent)
        stream = await served.ask(request(chat(max_tokens=5, stream=True)))
        left_meanwhile = limit - spent - served.books().opened[-1].bound_pico
        assert stream.headers["x-upeti-budget-left"] == decimal_text(left_meanwhile)
        keeper = served.keeper
    assert keeper is not None
    budget = keeper.budgets["key:k1"]
    assert budget.spent_pico == sum(one.cost_pico for one in served.books().settled)
    assert budget.rest_pico == limit - budget.spent_pico


async def test_a_call_that_would_overspend_is_refused_once_and_for_all(tmp_path: Path, provider: SimProvider) -> None:
    limit = bound_pico(CALL) - 1
    async with serving(tmp_path, budgeted(provider), limits_pico={"key:k1": limit}) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (429, "budget_exceeded")
        error = answered.json["error"]
        assert error["type"] == "budget_error"
        assert f"'key:k1' has {decimal_text(limit)} of {decimal_text(limit)} USD left" in error["message"]
        assert decimal_text(limit + 1) in error["message"]
        assert answered.headers["x-should-retry"] == "false"
        async with served.openai(max_retries=5) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 99}])
            assert caught.value.code == "budget_exceeded"
        assert served.gateway.metrics.answers[429] == 2
        books = served.books()
    assert provider.seen == 0
    assert not books.opened
    assert [one.code for one in books.refused] == ["budget_exceeded"] * 2


async def test_a_call_that_just_fits_is_served(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={"key:k1": bound_pico(CALL)}) as served:
        assert (await served.ask(CALL)).status == 200
        opened, _ = served.books().attempt()
        assert opened.bound_pico == bound_pico(CALL)


@pytest.mark.parametrize("slices", [1, 50])
async def test_many_calls_at_once_never_spend_more_than_the_limit(
    tmp_path: Path, provider: SimProvider, slices: int
) -> None:
    limit = 12 * bound_pico(CALL)
    async with serving(tmp_path, budgeted(provider), limits_pico={"key:k1": limit}) as served:
        assert served.keeper is not None
        served.keeper.slices = slices
        statuses = []
        for _ in range(3):
            answers = await asyncio.gather(*(served.ask(CALL) for _ in range(20)))
            statuses += [answered.status for answered in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 12
        spent = sum(one.cost_pico for one in served.books().settled)
        assert limit - bound_pico(CALL) < spent <= limit
        assert statuses.count(200) == provider.seen
        budget = served.keeper.budgets["key:k1"]
    assert (budget.spent_pico, budget.leased_pico) == (spent, 0)


async def test_every_level_must_have_it(tmp_path: Path, provider: SimProvider) -> None:
    limits = {"key:k1": 10**12, "tenant:acme": bound_pico(CALL)}
    first = budgeted(provider, "key:k1", "tenant:acme")
    async with serving(tmp_path, first, limits_pico=limits) as served:
        answered = await served.ask(CALL)
        assert answered.status == 200
        cost = served.books().settled[0].cost_pico
        assert answered.headers["x-upeti-budget-left"] == decimal_text(bound_pico(CALL) - cost)
        refused = await served.ask(CALL)
        assert "'tenant:acme'" in refused.json["error"]["message"]
        assert [purse.held for purse in map(served.purse, limits)] == [0, 0]
        assert [purse.posted for purse in map(served.purse, limits)] == [cost, cost]


async def test_an_attempt_that_failed_makes_room_again(tmp_path: Path, provider: SimProvider) -> None:
    provider.next("err500", "err500", "err503")
    first = budgeted(provider, routes=[route("*", candidate("up"), attempts_max=4)])
    async with serving(tmp_path, first, limits_pico={"key:k1": bound_pico(CALL)}) as served:
        assert (await served.ask(CALL)).status == 200
        assert len(served.books().opened) == 4


@pytest.mark.parametrize(
    ("body", "context_tokens", "bound"),
    [
        # Bytes bound tokens; the context window does when it is less.
        (chat(max_tokens=5, x="y" * 1000), None, lambda size: 2 * size + 8 * 5),
        (chat("m-in90", max_tokens=5, x="y" * 1000), 100, lambda size: 2 * 100 + 8 * 5),
        (chat(max_tokens=5), 1_000_000, lambda size: 2 * size + 8 * 5),
        # Without a cap it is ours; of two caps the higher one.
        (chat(), None, lambda size: 2 * size + 8 * 4096),
        (chat(max_tokens=5, max_completion_tokens=9), None, lambda size: 2 * size + 8 * 9),
        # Under a name that the provider may pass over it is no cap, or perhaps none.
        (chat(max_output_tokens=9), None, lambda size: 2 * size + 8 * 4096),
        (chat(max_completion_tokens=9), None, lambda size: 2 * size + 8 * 4096),
        (chat(max_completion_tokens=5_000), None, lambda size: 2 * size + 8 * 5_000),
        # Every choice is billed its own output, and perhaps its input.
        (chat(max_tokens=5, n=3), None, lambda size: 3 * (2 * size + 8 * 5)),
        # What is not in the body: the context window, or no bound at all.
        (chat(max_tokens=5, x={"type": "image_url", "image_url": "u"}), 5_000, lambda size: 2 * 5_000 + 8 * 5),
        (chat(max_tokens=5, x={"type": "image_url", "image_url": "u"}), None, None),
        (chat(max_tokens=5, previous_response_id="r"), None, None),
        # The provider's own tools make it read, and bill, more than any window holds.
        (chat(max_tokens=5, tools=[{"type": "web_search"}]), 5_000, None),
        (chat(max_tokens=5, prompt={"id": "pmpt_1"}), 5_000, None),
        (chat(max_tokens=1 << 53, n=4096), None, None),
    ],
)
async def test_bounds(
    tmp_path: Path, provider: SimProvider, body: Any, context_tokens: int | None, bound: Callable[[int], int] | None
) -> None:
    first = budgeted(provider, routes=[route("*", candidate("up", context_tokens=context_tokens))])
    sent = request(body)
    async with serving(tmp_path, first, limits_pico={"key:k1": 10**30}) as served:
        answered = await served.ask(sent)
        if bound is None:
            assert (answered.status, answered.code) == (400, "cost_unbounded")
            return
        assert answered.status == 200
        opened, _ = served.books().attempt()
        assert opened.bound_pico == bound(len(sent.partition(b"\r\n\r\n")[2])) * MICRO_USD
