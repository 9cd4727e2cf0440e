"""Counts of refusals fade; a hold ends."""

from __future__ import annotations

from upeti.gateway.signs import _TENANTS_MAX, FADES_S, Signs


def test_the_suspect_is_who_has_most_refusals_on_that_channel() -> None:
    signs = Signs()
    assert signs.suspect("a", 0.0) == ("", 0)
    for tenant, count in (("one", 2), ("two", 3)):
        for _ in range(count):
            signs.refused("a", tenant, 0.0)
    signs.refused("b", "one", 0.0)
    assert signs.suspect("a", 0.0) == ("two", 3)
    assert signs.suspect("b", 0.0) == ("one", 1)
    assert signs.refusals_total == {"a": 5, "b": 1}
    assert signs.unsaid == {("a", "one"): 2, ("a", "two"): 3, ("b", "one"): 1}


def test_old_refusals_count_less_than_new_ones_and_then_nothing() -> None:
    signs = Signs()
    for _ in range(3):
        signs.refused("a", "long-ago", 0.0)
    signs.refused("a", "just-now", 2 * FADES_S)
    assert signs.suspect("a", 2 * FADES_S) == ("just-now", 1)
    assert signs.suspect("a", 5 * FADES_S) == ("", 0)


def test_what_other_workers_saw_is_not_said_again() -> None:
    signs = Signs()
    signs.add("a", "one", 4, 0.0)
    assert signs.suspect("a", 0.0) == ("one", 4)
    assert signs.unsaid == {}


def test_tenants_without_end_do_not_fill_the_memory() -> None:
    signs = Signs()
    for number in range(_TENANTS_MAX + 50):
        signs.refused("a", f"tenant-{number}", float(number))
    assert len(signs._counts["a"]) == _TENANTS_MAX
    assert len(signs.unsaid) == _TENANTS_MAX


def test_a_hold_ends_at_its_time() -> None:
    signs = Signs()
    assert signs.hold("one", "incident x", 100)
    assert not signs.hold("one", "case y", 200)
    assert not signs.release_ended(199)
    assert signs.held["one"].number == "case y"
    assert signs.release_ended(200)
    assert signs.held == {}
