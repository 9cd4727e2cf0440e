"""Named budgets in the state, their windows in the ledger, and how they stand. On SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from upeti.control.budgets import (
    budget_from,
    drop_terms,
    fields_of,
    history,
    keep_terms,
    release,
    share_text,
    standings,
    stored_terms,
)
from upeti.control.compile import terms_of
from upeti.control.ledger import Ask, BudgetRow, Granted, Hello, Instance, Ledger, Return
from upeti.control.store import Store, StoreError
from upeti.core.errors import ConfigError
from upeti.money.budget_terms import BudgetTerms

NOW_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z
DECEMBER_NS = 1_796_083_200 * 10**9
USD = 10**12
MONTH = BudgetTerms(name="m", limit="10", window="month", tenant="acme")
CALLS = BudgetTerms(name="r", limit="60", unit="calls", window="minute", shares=())

OpenStore = Callable[[], Store]


def by_root(*terms: BudgetTerms) -> dict[str, BudgetTerms]:
    return {each.root: each for each in terms}


def ledger(store: Store, *terms: BudgetTerms, now_ns: int = NOW_NS) -> Ledger:
    made = Ledger(store, now_ns=lambda: now_ns)
    made.set_terms(by_root(*terms))
    made.apply([Hello("w", 0, 1, "p", {})], {"w"})
    return made


def ask(made: Ledger, budget: str, need: int) -> Granted:
    (granted,) = made.apply([Ask("w", budget, need, 0, final=True)], {"w"})
    assert isinstance(granted, Granted)
    return granted


# -- windows in the ledger -------------------------------------------------------------------------------------------------


def test_a_window_is_made_when_it_is_first_asked_for(open_store: OpenStore) -> None:
    made = ledger(open_store(), MONTH, CALLS)
    assert made.budgets() == []
    assert ask(made, "m@2026-11", 10 * USD) == Granted(10 * USD, 0, 10 * USD)
    assert ask(made, "m@2026-12", 4 * USD).amount_pico == 5 * USD  # all of December is there
    assert ask(made, "r+calls@2026-11-23T23:40", USD).limit_pico == 60 * USD
    rows = {row.id: (row.unit, row.ends_ns) for row in made.budgets()}
    assert rows["m@2026-11"] == ("USD", DECEMBER_NS)
    assert rows["r+calls@2026-11-23T23:40"] == ("calls", NOW_NS + 60 * 10**9)
    # What is no window of these terms is not granted from.
    for other in ("m", "m@2026-W48", "m@2026-11-23", "m+IDR@2026-11", "n@2026-11"):
        assert ask(made, other, 1) == Granted(0, 0, 0)
    assert len(made.budgets()) == 3


def test_what_was_only_counted_is_on_record(open_store: OpenStore) -> None:
    """A soft budget is never asked for; what is posted on it makes its window."""
    made = ledger(open_store(), msgspec.structs.replace(MONTH, soft=True, limit="1"))
    made.apply([Return("w", "m@2026-11", 0, 3 * USD)], {"w"})
    assert made.budgets() == [BudgetRow("m@2026-11", USD, 3 * USD, 0, "USD", DECEMBER_NS)]


def test_a_new_limit_holds_for_windows_that_are_not_over(open_store: OpenStore) -> None:
    store = open_store()
    made = ledger(store, MONTH)
    for window in ("m@2026-10", "m@2026-11"):
        ask(made, window, USD)
    made.set_terms(by_root(msgspec.structs.replace(MONTH, limit="4")))
    assert {row.id: row.limit_pico // USD for row in made.budgets()} == {"m@2026-10": 10, "m@2026-11": 4}
    assert ask(made, "m@2026-11", USD) == Granted(0, -1 * USD, 4 * USD)  # 5 are leased


def test_what_a_dead_worker_posted_in_a_window_is_posted_there(open_store: OpenStore) -> None:
    made = ledger(open_store(), MONTH, CALLS)
    ask(made, "m@2026-11", USD)
    ask(made, "r+calls@2026-11-23T23:40", 20 * USD)
    made.close(Instance("w", 0, 1, "p"), {"m@2026-11": 2 * USD, "m@2026-12": USD, "gone@2026-11": 7})
    rows = {row.id: (row.limit_pico, row.spent_pico, row.leased_pico) for row in made.budgets()}
    assert rows == {
        "m@2026-11": (10 * USD, 2 * USD, 0),
        "m@2026-12": (10 * USD, USD, 0),
        "gone@2026-11": (0, 7, 0),
        # How many calls it let through in that minute nobody knows: its part of the minute is gone.
        "r+calls@2026-11-23T23:40": (60 * USD, 30 * USD, 0),
    }


def test_minutes_that_are_over_are_forgotten_and_months_are_not(open_store: OpenStore) -> None:
    store = open_store()
    made = ledger(store, MONTH, CALLS)
    for budget in ("m@2026-10", "r+calls@2026-11-23T23:36", "r+calls@2026-11-23T23:40"):
        ask(made, budget, USD)
    made.purge_rates()
    assert [row.id for row in made.budgets()] == ["m@2026-10", "r+calls@2026-11-23T23:40"]


# -- frozen ----------------------------------------------------------------------------------------------------------------


def test_a_cost_above_its_bound_freezes_by_name_until_it_is_released(open_store: OpenStore) -> None:
    store = open_store()
    made = ledger(store, MONTH)
    before = store.changes()
    words = [Return("w", "m@2026-11", 0, 5, overrun="a-0 cost 5"), Return("w", "m@2026-12", 0, 1, overrun="b-0 cost 1")]
    made.apply(words, {"w"})
    made.apply(words, {"w"})
    (freeze,) = made.freezes()
    assert (freeze.root, freeze.at_ns) == ("m", NOW_NS)
    assert store.changes() == before + 1  # once: workers learn of it by the next snapshot
    assert standings(by_root(MONTH), [], made, DECEMBER_NS)[0].frozen == freeze.reason
    release(made, "m")
    assert (made.freezes(), store.changes()) == ([], before + 2)
    with pytest.raises(StoreError, match="is not frozen"):
        release(made, "m")


# -- terms in the state ------------------------------------------------------------------------------------------------------


def test_terms_come_back_as_they_were(open_store: OpenStore) -> None:
    store = open_store()
    before = store.changes()
    assert keep_terms(store, MONTH, 1) is False
    other = msgspec.structs.replace(
        MONTH, name="a", limit="400000000000.000000000001", unit="IDR", soft=True, shares=()
    )
    keep_terms(store, other, 2)
    assert keep_terms(store, msgspec.structs.replace(MONTH, limit="20"), 3) is True
    assert stored_terms(open_store()) == [other, msgspec.structs.replace(MONTH, limit="20")]
    drop_terms(store, "a")
    assert [terms.name for terms in stored_terms(store)] == ["m"]
    with pytest.raises(StoreError, match="has no budget `a`"):
        drop_terms(store, "a")
    assert store.changes() == before + 4


def test_fields_are_those_of_the_file_and_held_to_its_rules() -> None:
    fields = fields_of(MONTH)
    assert fields["tenant"] == "acme"
    assert terms_of(budget_from(fields)) == MONTH
    for change, what in (
        ({"limit": "1,5"}, "'1,5' is not a decimal number"),
        ({"limit": "-1"}, "below zero"),
        ({"limit": None}, "missing required field `limit`"),
        ({"zone": "Mars/Olympus"}, "no time zone `Mars/Olympus`"),
        ({"zone": "../etc/passwd"}, "no time zone"),
        ({"window": "year"}, "Invalid enum value 'year'"),
        ({"currency": "dollars"}, "currency"),
        ({"alert_shares": [50, 50]}, "a share is there twice"),
        ({"alert_shares": [0]}, "alert_shares"),
        ({"name": "key:k1"}, "begins the names of keys' own limits"),
        ({"name": "a@b"}, "name"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(ConfigError, match=what):
            budget_from(fields | change)


# -- how they stand ------------------------------------------------------------------------------------------------------------


def test_how_a_budget_stands(open_store: OpenStore) -> None:
    store = open_store()
    keys = BudgetTerms(name="key:k1", limit="3", key="k1")
    made = ledger(store, MONTH, CALLS, keys)
    made.apply([Ask("w", "m@2026-11", 4 * USD, 0, final=True), Return("w", "m@2026-11", 0, 3_333 * USD // 1000)], {"w"})
    made.close(Instance("dead", 0, 1, "p"), {"left-over": USD})
    own, left, month, rate = standings(made.terms, ["m"], made, NOW_NS)
    assert (month.id, month.source, month.spent, month.leased, month.left) == (
        "m@2026-11",
        "state",
        "3.333",
        "1.667",
        "5",
    )
    assert (month.share, month.resets_at, month.mode, month.tenant) == (
        "33.3",
        "2026-12-01T00:00:00+00:00",
        "hard",
        "acme",
    )
    assert (rate.id, rate.source, rate.unit, rate.left) == ("r+calls@2026-11-23T23:40", "file", "calls", "60")
    assert (own.source, own.resets_at, own.left) == ("key", None, "3")
    assert (left.id, left.source, left.spent, left.share) == ("left-over", "", "1", None)
    # In December it has all of its limit again, and November is history.
    assert [each.left for each in standings(by_root(MONTH), [], made, DECEMBER_NS) if each.name == "m"] == ["10"]
    assert [each.id for each in history("m", MONTH, made)] == ["m@2026-11"]


@pytest.mark.parametrize(
    ("spent", "limit", "share"), [(0, 5, "0.0"), (999, 1000, "99.9"), (1, 3, "33.3"), (7, 5, "140.0"), (1, 0, None)]
)
def test_a_share_is_rounded_down(spent: int, limit: int, share: str | None) -> None:
    assert share_text(spent, limit) == share
