"""A live drill read from its records: each call of the share is judged once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.money.price import Price
from upeti.outlook.drill_life import TRANSITIONS, Event, State, after
from upeti.outlook.live_drill import (
    BINS_MAX,
    AttemptSeen,
    Fate,
    Judged,
    LiveDrill,
    RefusalSeen,
    Tally,
    compared,
    recovery,
    time_line,
)

MS = 10**6
S = 10**9


def attempt(
    call: str = "in-1", number: int = 0, channel: str = "cut", ended: str = "drill", **changes: Any
) -> AttemptSeen:
    opened_ns = changes.pop("at_ms", number * 10) * MS
    fields = {"settled_ns": opened_ns + MS, "model": "m", "feature": "search", "tenant": "acme", "route": "r"} | changes
    return AttemptSeen(call, number, opened_ns, channel=channel, ended=ended, **fields)


def refusal(call: str = "in-1", code: str = "upstream_failed", **changes: Any) -> RefusalSeen:
    return RefusalSeen(
        call, **{"at_ns": 50 * MS, "feature": "search", "tenant": "acme", "route": "r"} | changes, code=code
    )


def drill(*records: AttemptSeen | RefusalSeen, **changes: Any) -> LiveDrill:
    made = LiveDrill("cut", frozenset({"r"}), lambda call: call.startswith("in"), **changes)
    for one in records:
        if isinstance(one, AttemptSeen):
            made.add(one)
        else:
            made.refused(one)
    return made


def only(*records: AttemptSeen | RefusalSeen, **changes: Any) -> Judged:
    (found,) = drill(*records, **changes).judged()
    return found


def test_a_call_that_another_candidate_answered_survived_and_how_late() -> None:
    found = only(attempt(), attempt(number=1, channel="b", ended="answered", status=200, first_byte_us=400, at_ms=10))
    assert (found.fate, found.met, found.added_us) == (Fate.SURVIVED, True, 10_000)
    assert found.answered_ns == 10 * MS + 400_000


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([attempt(), refusal()], "upstream_failed"),
        (
            [attempt(), attempt(number=1, channel="b", ended="lost"), refusal(code="deadline_exceeded")],
            "deadline_exceeded",
        ),
        ([attempt(), attempt(number=1, channel="b", ended="refused", status=503)], "provider_503"),
        ([attempt(), attempt(number=1, channel="b", ended="cut", status=200)], "cut"),
        ([refusal(code="channel_latched")], "channel_latched"),
        ([attempt()], "no_answer"),
    ],
)
def test_a_lost_call_says_what_its_client_was_told(records: list[Any], told: str) -> None:
    found = only(*records)
    assert (found.fate, found.told) == (Fate.LOST, told)


def test_the_faults_own_error_is_told_to_a_client_that_gets_it() -> None:
    assert only(attempt(), status=400).told == "provider_400"


def test_what_any_provider_would_refuse_survived() -> None:
    assert only(attempt(), attempt(number=1, channel="b", ended="refused", status=400)).fate is Fate.SURVIVED


def test_a_call_that_was_kept_away_by_the_latch_is_in_the_drill() -> None:
    found = only(attempt(channel="b", ended="answered", status=200))
    assert (found.fate, found.met, found.added_us) == (Fate.SURVIVED, False, -1)


@pytest.mark.parametrize(
    "records",
    [
        [attempt("out-1", channel="b", ended="answered")],
        [attempt(channel="b", ended="answered", route="another")],  # its route does not try the channel first
        [attempt(channel="cut", ended="answered")],  # it went its way before the fault
        [refusal(code="budget_exceeded")],
        [refusal(code="channel_latched", route="another")],
    ],
)
def test_who_is_not_in_the_drill(records: list[Any]) -> None:
    assert drill(*records).judged() == []


def test_a_fault_outside_the_share_is_counted() -> None:
    made = drill(attempt("out-1"), attempt("in-1"))
    assert (made.outside, len(made.judged())) == (1, 1)


def test_who_may_be_about_to_try_another_candidate_is_open() -> None:
    made = drill(attempt(), attempt("in-2"), attempt("in-2", 1, "b", "answered"))
    fates = {one.call_id: one.fate for one in made.judged({"in-1"})}
    assert fates == {"in-1": Fate.OPEN, "in-2": Fate.SURVIVED}
    assert [one.fate for one in made.judged(now_ns=2 * MS)] == [Fate.OPEN, Fate.SURVIVED]
    assert [one.fate for one in made.judged(now_ns=60 * S)] == [Fate.LOST, Fate.SURVIVED]


def test_a_client_that_left_is_neither() -> None:
    assert only(attempt(), attempt(number=1, channel="b", ended="client_left")).fate is Fate.LEFT
    assert only(attempt(), attempt(number=1, channel="b", ended="not_sent")).fate is Fate.LEFT


def test_a_slow_provider_answers_itself() -> None:
    found = only(attempt(ended="answered", status=200, first_byte_us=700_000), slow=True)
    assert (found.fate, found.met, found.added_us) == (Fate.SURVIVED, True, 700_000)


def test_recovery_is_from_the_first_fault_to_the_first_answer() -> None:
    records = []
    for number in range(1, 101):
        name = f"in-{number}"
        records.append(attempt(name, at_ms=number))
        answer = attempt(name, 1, "b", "answered", status=200, at_ms=2 * number, first_byte_us=1000)
        records.append(answer)
    found = recovery(drill(*records).judged())
    assert (found.first_fault_ns, found.first_answer_us) == (MS, 2_000)  # opened at 2 ms, its first byte 1 ms later
    assert (found.added_us_p50, found.added_us_p99, found.added_us_max) == (50_000, 99_000, 100_000)
    assert found.measured == 100
    nothing = recovery([])
    assert (nothing.first_fault_ns, nothing.first_answer_us, nothing.added_us_p99) == (None, None, None)


@given(st.lists(st.integers(0, 3600 * S - 1), max_size=50), st.integers(1, 3600 * S))
def test_the_time_line_has_every_call_once(moments: list[int], length_ns: int) -> None:
    calls = [Judged(f"in-{at}", Fate.SURVIVED if at % 2 else Fate.LOST, "", "", "r", at, met=True) for at in moments]
    bins = time_line(calls, 0, length_ns)
    assert sum(one.survived + one.lost for one in bins) == len(calls)
    within = [at for at in moments if at < length_ns]
    if len(within) == len(moments):
        assert len(bins) <= BINS_MAX


def test_what_the_channel_would_have_asked_for_the_same() -> None:
    price = Price("p", "USD", 0, {"input": 3})
    answered = {"channel": "b", "ended": "answered", "status": 200}
    calls = drill(
        attempt("in-1", **answered, meters={"input": 10}, cost_pico=50),
        attempt("in-2", **answered, meters=None, cost_pico=7),
        attempt("in-3", **answered, meters={"input": 10}, cost_pico=None),
        attempt("in-4"),
    ).judged()
    line = compared(calls, lambda _: price)
    assert (line.calls, line.survived, line.compared) == (4, 3, 1)
    assert (line.spend, line.before, line.after) == ({"USD": 57}, {"USD": 30}, {"USD": 50})


def test_a_tally_leaves_who_is_not_decided_out_of_the_share() -> None:
    tally = Tally()
    assert tally.survival_percent is None
    for fate in (Fate.SURVIVED, Fate.SURVIVED, Fate.SURVIVED, Fate.LOST, Fate.LEFT, Fate.OPEN):
        tally.add(fate)
    assert (tally.calls, tally.survival_percent) == (6, 75.0)


@given(st.sampled_from(State), st.lists(st.sampled_from(Event), max_size=6))
def test_whatever_happens_a_drill_never_runs_again(state: State, events: list[Event]) -> None:
    assert set(TRANSITIONS) == set(State)
    for event in events:
        new = after(state, event)
        assert new is not State.RUNNING or state is State.RUNNING
        assert state is not State.REPORTED or new is State.REPORTED
        state = new
