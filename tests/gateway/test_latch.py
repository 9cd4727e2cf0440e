"""The table of a latch's states, and what a worker knows of latches."""

from __future__ import annotations

from itertools import product

import pytest

from upeti.gateway.latch import SHUT, TRANSITIONS, Event, Latch, Latches, Scope, State, Subject

A = Subject(Scope.CHANNEL, "a")
KEY = Subject(Scope.KEY, "a", "k1")
MODEL = Subject(Scope.MODEL, "a", "m")


def latch(subject: Subject = A, incident: str = "inc_1", state: State = State.LATCHED) -> Latch:
    return Latch(subject, state, 1, incident, "account_cut", "why")


def test_every_state_knows_every_event() -> None:
    assert TRANSITIONS.keys() == set(State)
    for state, event in product(State, Event):
        assert TRANSITIONS[state][event] in State


@pytest.mark.parametrize("event", [event for event in Event if event is not Event.PERSON_OPENED])
def test_only_a_person_opens_what_a_person_latched(event: Event) -> None:
    assert TRANSITIONS[State.HELD][event] is State.HELD


def test_nothing_but_a_passing_probe_or_a_person_opens() -> None:
    opening = {event for event in Event for state in SHUT if TRANSITIONS[state][event] not in SHUT}
    assert opening == {Event.PROBE_PASSED, Event.PERSON_OPENED}


def test_a_latch_covers_what_it_is_on() -> None:
    for subject, covered in (
        (A, {("k1", "m"), ("k1", "n"), ("k2", "m"), ("k2", "n")}),
        (KEY, {("k1", "m"), ("k1", "n")}),
        (MODEL, {("k1", "m"), ("k2", "m")}),
    ):
        latches = Latches()
        assert latches.covering("a", "k1", "m") is None
        latches.shut(latch(subject))
        found = {(key, model) for key, model in product(("k1", "k2"), "mn") if latches.covering("a", key, model)}
        assert found == covered
        assert latches.covering("b", "k1", "m") is None
        assert latches.opened(subject)
        assert not latches.opened(subject)


def test_the_first_incident_stays() -> None:
    latches = Latches()
    first, new = latches.happened(latch(), Event.SIGNAL)
    assert (first.state, new) == (State.LATCHED, True)
    again, new = latches.happened(latch(incident="inc_2"), Event.PROBE_FAILED)
    assert (again.incident, new) == ("inc_1", False)
    assert latches.happened(latch(incident="inc_3"), Event.PROBE_PASSED)[1]
    assert latches.on(A) is None


def test_what_a_snapshot_has_had_is_open_when_the_next_one_has_it_not() -> None:
    latches = Latches()
    own = latch()
    latches.happened(own, Event.SIGNAL)
    latches.confirm([])  # compiled before the keeper heard of it
    assert latches.on(A) is own
    assert latches.unconfirmed == [own]
    latches.confirm([latch(), latch(MODEL)])
    assert latches.unconfirmed == []
    latches.confirm([latch(MODEL)])
    assert latches.on(A) is None
    assert latches.on(MODEL) is not None


def test_calls_that_met_a_latch_are_told_once() -> None:
    latches = Latches()
    latches.met(latch())
    latches.met(latch())
    assert latches.told() == {"inc_1": 2}
    assert latches.told() == {}
