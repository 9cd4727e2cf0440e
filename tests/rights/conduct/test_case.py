"""The life of a case: nobody is suspended by a rule, and nothing that a rule does lasts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.rights.conduct.case import (
    BEGINNINGS,
    BY_CLOCK,
    BY_RULE,
    LIFE_CYCLE,
    NOT_SERVED,
    CaseError,
    Event,
    State,
    following,
    named_person,
    reason_of,
    step_by_rule,
)

FAMILIES = st.frozensets(st.sampled_from(["drift", "elicitation", "purpose", "concealment"]))


def test_the_table_is_whole() -> None:
    assert LIFE_CYCLE.keys() == set(State)
    assert {event for events in LIFE_CYCLE.values() for event in events} == set(Event)
    reached = BEGINNINGS | {state for events in LIFE_CYCLE.values() for state in events.values()}
    assert reached == set(State)
    assert LIFE_CYCLE[State.CLOSED] == {}
    assert all(Event.CLOSE in LIFE_CYCLE[state] for state in State if state is not State.CLOSED)


def test_a_clock_runs_in_each_state_that_a_rule_or_an_appeal_makes_and_leads_to_a_tenant_that_is_served() -> None:
    for state, event in BY_CLOCK.items():
        assert event in BY_RULE
        assert LIFE_CYCLE[state][event] not in NOT_SERVED


@given(st.lists(st.tuples(st.sampled_from(Event), FAMILIES)), st.sampled_from(sorted(BEGINNINGS)))
def test_no_rule_ever_suspends(steps: list[tuple[Event, frozenset[str]]], beginning: State) -> None:
    """Whatever rules try, in whatever order and with whatever evidence: the worst is a hold, which has a clock."""
    state = beginning
    for event, families in steps:
        try:
            state = following(state, event, person="", families=families)
        except CaseError:
            continue
        assert state not in (State.SUSPENDED, State.APPEALED, State.CLOSED)


@given(st.sampled_from(State), FAMILIES, st.integers(1, 5))
def test_a_rule_needs_two_families_and_one_tenant_and_does_no_more_than_throttle(
    state: State, families: frozenset[str], tenants: int
) -> None:
    event = step_by_rule(state, families, tenants=tenants)
    if len(families) < 2 or tenants > 1:
        assert event is None
    assert event in (None, Event.WARN, Event.THROTTLE)
    if event is not None:
        following(state, event, person="", families=families)
    if event is Event.THROTTLE:
        assert state in (State.WARNED, State.THROTTLED)


@given(st.sampled_from(State), st.sampled_from(Event), FAMILIES, st.sampled_from(["", "head of legal"]))
def test_whatever_is_asked_is_a_state_of_the_table_or_a_reason(
    state: State, event: Event, families: frozenset[str], person: str
) -> None:
    try:
        after = following(state, event, person=person, families=families)
    except CaseError:
        return  # with a reason; any other exception fails
    assert after is LIFE_CYCLE[state][event]
    if after is State.SUSPENDED and event is not Event.EVIDENCE:
        assert person


def test_suspending_needs_evidence() -> None:
    with pytest.raises(CaseError, match="no evidence"):
        following(State.OPEN, Event.SUSPEND, person="head of legal", families=frozenset())


@pytest.mark.parametrize("name", ["", " ", "7", "rule:conduct", "-", "x", "a\x00b"])
def test_what_is_no_name_of_a_person(name: str) -> None:
    with pytest.raises(CaseError, match="no name of a person"):
        named_person(name)


def test_names_and_reasons_are_kept_without_blanks_around() -> None:
    assert named_person("  head of   legal ") == "head of legal"
    assert reason_of(" harvesting ") == "harvesting"
    with pytest.raises(CaseError, match="needs a reason"):
        reason_of("  ")
