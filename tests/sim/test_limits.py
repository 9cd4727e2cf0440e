"""What was held at once, and who was refused without need, by journals put down by hand."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from upeti.sim import limits
from upeti.sim.auditor import Attempt, Journal, Provided, Refusal
from upeti.sim.limits import exposures, judge_moments, judge_refusals, owed_by_provider

S = 10**9


def attempt(opened_s: int, settled_s: int | None, bound: int, cost: int = 0, **change: Any) -> Attempt:
    made = Attempt("w0", opened_s, 0, f"c{opened_s}", "up", "m", ("key:a",), bound, True, "a", "f", "r", opened_s * S)
    for name, value in change.items():
        setattr(made, name, value)
    if settled_s is not None:
        end = {"outcome": "posted", "status": 200, "meters": {"input": cost}, "cost_pico": cost, "at_ns": settled_s * S}
        made.settled.append(end)
    return made


def journal(*attempts: Attempt, refused_s: tuple[int, ...] = (), code: str = "budget_exceeded") -> Journal:
    made = Journal({(one.instance, one.call, one.number): one for one in attempts})
    made.refusals = [Refusal(at * S, f"refused-{at}", "a", "f", "r", code) for at in refused_s]
    return made


def refused(made: Journal, limit: int, **options: Any) -> list[str]:
    found = judge_refusals(made, {"key:a": limit}, **{"share_percent": 5, "window_s": 1.0} | options)
    return [finding.about for finding in found]


def test_bounds_count_while_they_are_held_and_costs_from_then_on() -> None:
    made = journal(attempt(1, 3, 60, 20), attempt(2, 5, 40, 40), attempt(4, None, 30))
    exposure = exposures(made)["key:a"]
    assert exposure.sums_pico == [60, 100, 60, 90, 90]
    assert exposure.most_pico() == 100
    assert exposure.most_pico(3 * S, 3 * S) == 60
    assert exposure.most_pico(0, 1 * S) == 60
    assert exposure.most_pico(0, S // 2) == 0
    assert not list(judge_moments(made, {"key:a": 100}))
    assert [finding.about for finding in judge_moments(made, {"key:a": 99})] == ["key:a"]


def test_what_is_given_back_in_one_moment_makes_room_in_it() -> None:
    made = journal(attempt(1, 2, 100, 10), attempt(2, 3, 90, 90))
    assert not list(judge_moments(made, {"key:a": 100}))


def test_a_second_settlement_is_money_too() -> None:
    twice = attempt(1, 2, 50, 50)
    twice.settled.append(twice.settled[0])
    assert [finding.detail for finding in judge_moments(journal(twice), {"key:a": 99})] == [
        "100 pico spent and held at once, of 99"
    ]


def test_a_refusal_with_the_bound_and_a_share_left_is_found() -> None:
    made = journal(attempt(1, 2, 100, 100), refused_s=(5,))
    assert refused(made, 211) == ["refused-5"]  # 111 left: the bound, 10 of 211, and 1
    assert refused(made, 209) == []
    assert refused(made, 211, share_percent=6) == []


@pytest.mark.parametrize(("window_s", "found"), [(1.0, ["refused-5"]), (3.5, [])])
def test_the_least_that_was_left_while_it_was_looked_for_counts(window_s: float, found: list[str]) -> None:
    made = journal(attempt(1, 2, 100, 100), attempt(3, 4, 80, 0), refused_s=(5,))
    assert refused(made, 230, window_s=window_s) == found


def test_other_refusals_and_troubled_times_are_not_judged() -> None:
    assert refused(journal(attempt(1, 2, 10, 10), refused_s=(5,), code="upstream_failed"), 1000) == []
    made = journal(attempt(1, 2, 10, 10), refused_s=(5, 9))
    assert refused(made, 1000, troubled_ns=[(4 * S, 6 * S)]) == ["refused-9"]


def test_every_level_must_have_had_enough() -> None:
    made = journal(attempt(1, 2, 10, 10, budgets=("key:a", "tenant:t")), refused_s=(5,))
    levels = {"key:a": 1000, "tenant:t": 15}
    assert not list(judge_refusals(made, levels, share_percent=5, window_s=1))
    assert list(judge_refusals(made, levels | {"tenant:t": 1000}, share_percent=5, window_s=1))


def test_a_feature_that_has_a_budget_of_its_own_is_another_matter() -> None:
    made = journal(attempt(1, 2, 10, 10, budgets=("key:a",), feature="other"), refused_s=(5,))
    assert refused(made, 1000) == []


def test_what_the_provider_bills() -> None:
    made = journal(attempt(1, 2, 10, 10), attempt(2, 3, 10), attempt(3, 4, 10), attempt(4, 5, 10, channel="other"))
    provided = {
        "c1-0": Provided(1, [{"billed": {"input": 3}}]),
        "c2-0": Provided(1, []),  # the provider was killed before it said so
        "c4-0": Provided(1, [{"billed": {"input": 3}}]),
    }
    assert owed_by_provider(made, provided, {"up/m": {"input": 7}}) == {("w0", 1, 0): 21, ("w0", 3, 0): 0}


def test_it_shares_no_code_with_what_it_judges() -> None:
    tree = ast.parse(Path(limits.__file__).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("upeti")} == {"upeti.sim.auditor"}
