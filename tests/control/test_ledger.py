"""Leases in the state: what was told is durable, and the sums are exact over restarts and deaths."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from support.keeper_side import limits
from upeti.control import tables
from upeti.control.budgets import standings
from upeti.control.ledger import Ask, BudgetRow, Granted, Hello, Instance, Ledger, Peers, Return
from upeti.control.store import Store
from upeti.money.budget_terms import BudgetTerms

BIG = 10**25  # ten trillion units: far above what a 64-bit integer holds


def hello(name: str, **leases: tuple[int, int]) -> Hello:
    return Hello(name, 0, 1, "p", {f"key:{budget}": sums for budget, sums in leases.items()})


def ask(name: str, need: int, *, posted: int = 0, final: bool = True, budget: str = "key:a") -> Ask:
    return Ask(name, budget, need, posted, final)


OpenStore = Callable[[], Store]


def ledger(open_store: OpenStore, limit: int = BIG) -> Ledger:
    made = Ledger(open_store())
    made.set_terms(limits(a=limit))
    return made


def standing(made: Ledger) -> tuple[int, int]:
    (row,) = made.budgets()
    return row.spent_pico, row.leased_pico


def test_grants_survive_the_keeper(open_store: OpenStore) -> None:
    ledger(open_store).apply([hello("w1"), ask("w1", 5)], {"w1"})
    again = Ledger(open_store())
    assert standing(again) == (0, BIG // 2)
    again.apply([Return("w1", "key:a", BIG // 2 - 7, 3)], {"w1"})
    assert standing(Ledger(open_store())) == (3, 4)


def test_a_batch_is_taken_in_order(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    answers = made.apply([hello("w1"), hello("w2"), ask("w1", 60), ask("w2", 60), ask("w1", 1)], {"w1", "w2"})
    assert answers == [True, True, Granted(60, 40, 100), Granted(40, 0, 100), Granted(0, 0, 100)]


def test_who_can_wait_is_told_who_may_have_it(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), hello("w2"), hello("w3"), ask("w1", 70), ask("w3", 20)], {"w1", "w2", "w3"})
    (answer,) = made.apply([ask("w2", 30, final=False)], {"w1", "w2"})  # w3 is not connected
    assert answer == Granted(0, 10, 100, ("w1",))
    made.apply([Return("w1", "key:a", 50, 5)], {"w1", "w2"})
    assert made.apply([ask("w2", 30, final=False)], {"w1", "w2"}) == [Granted(30, 30, 100)]


def test_what_was_posted_moves_from_leased_to_spent(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), ask("w1", 80), Return("w1", "key:a", 0, 30)], {"w1"})
    assert standing(made) == (30, 50)
    made.apply([Return("w1", "key:a", 0, 30), Return("w1", "key:a", 0, 20)], {"w1"})
    assert standing(made) == (30, 50)


def test_an_unknown_budget_grants_nothing(open_store: OpenStore) -> None:
    made = ledger(open_store)
    words = [hello("w1"), ask("w1", 5, budget="key:gone"), Return("w1", "key:gone", 5, 1)]
    assert made.apply(words, {"w1"}) == [True, Granted(0, 0, 0), False]


def test_words_without_a_hello_change_nothing(open_store: OpenStore) -> None:
    made = ledger(open_store)
    assert made.apply([ask("w1", 5), Return("w1", "key:a", 5, 1)], {"w1"}) == [Granted(0, 0, 0), False]
    assert standing(made) == (0, 0)


def test_a_worker_that_connects_again_gives_up_what_it_never_received(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), ask("w1", 80)], {"w1"})
    assert made.apply([hello("w1", a=(20, 10))], {"w1"}) == [True]
    assert standing(made) == (10, 20)


def test_closing_posts_what_the_journal_says(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), hello("w2"), ask("w1", 60, posted=0), ask("w2", 20)], {"w1", "w2"})
    dead = Instance("w1", 0, 1, "p")
    assert dead in made.instances()
    made.close(dead, {"key:a": 25})
    assert standing(made) == (25, 20)
    made.close(dead, {"key:a": 25})
    assert standing(made) == (25, 20)
    assert made.closed_instances() == {"w1"}
    assert [instance.instance for instance in made.instances()] == ["w2"]
    answers = made.apply([hello("w1"), ask("w1", 5), Return("w1", "key:a", 5, 99)], {"w1", "w2"})
    assert answers == [False, Granted(0, 0, 0), False]
    assert standing(made) == (25, 20)


def test_a_journal_without_state_is_a_fold_all_the_same(open_store: OpenStore) -> None:
    """An instance and a budget that the state has lost: what was spent is known again, then the limit."""
    made = Ledger(open_store())
    made.close(Instance("w9", 0, 0, ""), {"key:a": BIG})
    made.set_terms(limits(a=BIG + 5))
    assert made.budgets() == [BudgetRow("key:a", BIG + 5, BIG, 0)]


def test_limits_change_and_spending_stays(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), ask("w1", 60, posted=0), Return("w1", "key:a", 0, 10)], {"w1"})
    made.set_terms(limits(a=50))
    assert made.budgets() == [BudgetRow("key:a", 50, 10, 50)]
    assert made.apply([ask("w1", 1, posted=10)], {"w1"}) == [Granted(0, -10, 50)]


def test_a_window_whose_zone_has_changed_takes_new_limits_until_its_new_end(open_store: OpenStore) -> None:
    hour_ns = 3600 * 10**9
    now_ns = 1_794_000_000 * 10**9 // (24 * hour_ns) * 24 * hour_ns + 16 * hour_ns  # 16:00 UTC
    made = Ledger(open_store(), now_ns=lambda: now_ns)
    jakarta = BudgetTerms(name="day", limit="5", window="day", zone="Asia/Jakarta")
    made.set_terms({"day": jakarta})
    budget = jakarta.id_at(now_ns)
    made.apply([hello("w1"), ask("w1", 10, posted=3, budget=budget)], {"w1"})
    now_ns += 2 * hour_ns  # over in Jakarta, and not in UTC
    for limit in ("5", "2"):
        utc = BudgetTerms(name="day", limit=limit, window="day")
        made.set_terms({"day": utc})
        (row,) = made.budgets()
        assert (row.id, row.limit_pico, row.ends_ns) == (budget, utc.limit_pico, utc.window_at(now_ns).ends_ns)
    (shown,) = standings({"day": utc}, ["day"], made, now_ns)
    assert (shown.id, shown.spent) == (budget, "0.000000000003")


actions = st.lists(
    st.tuples(st.sampled_from(["ask", "post", "return", "die"]), st.integers(0, 2), st.integers(1, BIG // 3)),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=actions)
def test_never_overspent_in_the_database(open_store: OpenStore, steps: list[tuple[str, int, int]]) -> None:
    """The same invariant as in money/budget, read back from the database after each step."""
    store = open_store()
    with store.writing() as connection:
        for table in (tables.leases, tables.instances, tables.budgets):
            connection.execute(delete(table))
    made = Ledger(store)
    made.set_terms(limits(a=BIG))
    names = ["w0", "w1", "w2"]
    free = dict.fromkeys(names, 0)
    posted = dict.fromkeys(names, 0)
    closed_posted = 0
    made.apply([hello(name) for name in names], set(names))
    for action, place, amount in steps:
        name = names[place]
        if action == "ask":
            (answer,) = made.apply([ask(name, amount, posted=posted[name])], set(names))
            assert isinstance(answer, Granted)
            free[name] += answer.amount_pico
        elif action == "post":
            spent = min(amount, free[name])
            free[name] -= spent
            posted[name] += spent
        elif action == "return":
            back = min(amount, free[name])
            free[name] -= back
            made.apply([Return(name, "key:a", back, posted[name])], set(names))
        else:
            made.close(Instance(name, 0, 1, "p"), {"key:a": posted[name]})
            closed_posted += posted[name]
            names[place] = f"{name}+"
            free[names[place]] = posted[names[place]] = 0
            made.apply([hello(names[place])], set(names))
        spent, leased = standing(made)
        assert spent + leased <= BIG
        assert spent + leased == closed_posted + sum(free[at] + posted[at] for at in names)


def test_two_nodes_never_wait_for_each_other(open_store: OpenStore) -> None:
    """Both lock the same rows again and again, each naming them in its own order; nobody is overspent or stuck."""
    terms = limits(**dict.fromkeys("abcdef", 10_000))
    Ledger(open_store()).set_terms(terms)
    errors: list[BaseException] = []

    def work(place: int) -> None:
        made = Ledger(open_store(), f"node-{place}")
        budgets = sorted(terms, reverse=bool(place % 2))
        try:
            for number in range(12):
                name = f"w{place}-{number}"
                made.apply([hello(name), *(ask(name, 40, budget=budget) for budget in budgets)], {name})
                made.apply([Return(name, budget, 10, 20) for budget in budgets], {name})
                made.set_terms(limits(**dict.fromkeys("abcdef", 10_000 + place)))
                made.close(Instance(name, 0, 1, "p"), dict.fromkeys(budgets, 25))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert [(row.spent_pico, row.leased_pico) for row in Ledger(open_store()).budgets()] == [(4 * 12 * 25, 0)] * 6


def test_a_budget_that_two_nodes_make_at_once_is_made_once(open_store: OpenStore) -> None:
    ledgers = [Ledger(open_store(), name) for name in ("a", "b", "c")]
    start = threading.Barrier(len(ledgers))

    def make(made: Ledger) -> None:
        for number in range(20):
            start.wait(timeout=30)
            made.close(Instance(f"{made._node}{number}", 0, 0, ""), {f"key:{number}": 5})

    threads = [threading.Thread(target=make, args=(made,)) for made in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert {(row.limit_pico, row.spent_pico) for row in ledgers[0].budgets()} == {(0, 15)}
    assert len(ledgers[0].budgets()) == 20


def test_each_node_sees_its_own_instances_and_every_lease(open_store: OpenStore) -> None:
    one, two = Ledger(open_store(), "one"), Ledger(open_store(), "two")
    one.set_terms(limits(a=100))
    one.apply([hello("w1"), ask("w1", 60)], {"w1"})
    assert two.apply([hello("w2"), ask("w2", 30, posted=0)], {"w2"}) == [True, Granted(30, 10, 100)]
    assert [each.instance for each in one.instances()] == ["w1"]
    assert [each.instance for each in two.instances()] == ["w2"]
    # Node one is not known to be there: it cannot be asked for what it has.
    assert two.apply([ask("w2", 30, final=False)], {"w2"}) == [Granted(10, 0, 100)]
    two.peers = Peers(frozenset({"one"}), 1)
    assert two.apply([ask("w2", 30, final=False)], {"w2"}) == [Granted(0, 0, 100, nodes=("one",))]
    one.apply([Return("w1", "key:a", 60, 0)], {"w1"})
    assert two.apply([ask("w2", 30, final=False)], {"w2"}) == [Granted(30, 30, 100)]


def test_slices_are_smaller_the_more_workers_other_nodes_have(open_store: OpenStore) -> None:
    made = ledger(open_store, 800)
    made.peers = Peers(frozenset({"b"}), 3)
    assert made.apply([hello("w1"), ask("w1", 5)], {"w1"}) == [True, Granted(100, 700, 800)]


def test_what_a_lost_node_had_leased_counts_as_spent(open_store: OpenStore) -> None:
    made = ledger(open_store, 100)
    made.apply([hello("w1"), ask("w1", 60), Return("w1", "key:a", 0, 20)], {"w1"})
    (instance,) = made.instances()
    assert made.give_up(instance) == {"key:a": 40}
    assert standing(made) == (60, 0)
    assert made.instances() == []
