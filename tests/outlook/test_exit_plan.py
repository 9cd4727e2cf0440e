"""The register of ways out: what people said, what drills found, and costs with their computation."""

from __future__ import annotations

from typing import Any

from outlook.test_drill import candidate, world
from upeti.outlook.exit_plan import Said, Setting, Spend, Trial, entry, leaving
from upeti.outlook.remaining import World

DAY_NS = 86_400 * 10**9


def said(**changes: Any) -> Said:
    fields = {"id": "alt_1", "route": "m", "alternative": "in-house", "months": "6", "cost": "", "currency": ""}
    return Said(**fields | {"owner": "head of platforms", "by": "head of legal", "why": "", "at_ns": 1} | changes)


def trial(**changes: Any) -> Trial:
    fields = {"drill": "drl_1", "mode": "shadow", "channel": "a", "at_ns": 10 * DAY_NS, "calls": 100, "survived": 90}
    money = {"window_hours": 24.0, "before": {"USD": "10"}, "after": {"USD": "12.5"}, "compared": 90}
    return Trial(**fields | money | changes)


def made(case: World, **changes: Any) -> dict[str, Any]:
    fields = {"setting": Setting("answers", True), "said": [], "trials": [], "spend": [], "overdue_ns": 0} | changes
    return entry(case, "m", **fields)


def test_alternatives_are_those_configured_and_those_that_people_named() -> None:
    found = made(world(candidate("b", 1), candidate("claude", 2)), said=[said()])
    assert found["depends_on"] == "a"
    assert [(one["kind"], one.get("permitted")) for one in found["alternatives"]] == [
        ("configured", True),
        ("configured", False),
        ("entered", None),
    ]
    assert "speaks" in found["alternatives"][1]["cure"]


def test_a_drill_that_is_missing_or_old_is_warned_of() -> None:
    never = made(world(candidate("b", 1)))
    assert never["overdue"]
    assert any("no drill has looked at it" in warning for warning in never["warnings"])
    old = made(world(candidate("b", 1)), trials=[trial()], overdue_ns=11 * DAY_NS)
    assert old["overdue"]
    fresh = made(world(candidate("b", 1)), trials=[trial(), trial(drill="drl_0", at_ns=DAY_NS)], overdue_ns=9 * DAY_NS)
    assert (fresh["overdue"], fresh["last_drill"]["drill"]) == (False, "drl_1")


def test_a_cost_that_somebody_entered_stands_as_it_was_said() -> None:
    found = leaving([said(cost="20000", currency="EUR")], [trial()])
    assert (found["cost"], found["source"], found["months"]) == ({"EUR": "20000"}, "entered", "6")


def test_a_derived_cost_is_exact_and_shows_its_computation() -> None:
    found = leaving([said(), said(months="0.5")], [trial(), trial(mode="shadow", at_ns=DAY_NS, after={"USD": "99"})])
    # 2.50 dearer in 24 hours, 730 hours a month, half a month: the shortest that somebody has said.
    assert found["cost"] == {"USD": "38.020833333333"}
    assert found["source"] == "derived"
    assert "(12.5 − 10) USD ÷ 24 h × 730 h a month × 0.5 months" in found["computation"]


def test_what_nobody_said_and_nothing_gives_is_unknown() -> None:
    assert leaving([], [trial()])["cost"] is None
    assert leaving([said()], [])["cost"] is None
    assert leaving([said()], [trial(compared=0)])["cost"] is None


def test_dependence_is_each_channels_share_of_the_spend() -> None:
    spend = [Spend("m", "a", "USD", 2), Spend("m", "b", "USD", 1), Spend("m", "a", "IDR", 5)]
    found = made(world(candidate("b", 1)), spend=spend)["dependence"]
    assert [(one["channel"], one["currency"], one["share_percent"]) for one in found] == [
        ("a", "IDR", 100.0),
        ("a", "USD", 66.66),
        ("b", "USD", 33.33),
    ]
