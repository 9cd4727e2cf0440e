"""Who is in which arm: fixed by a hash, even, independent of everything else."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import ConfigError
from upeti.feed.experiment import (
    DEFAULT_ARM,
    ENRICHMENTS,
    FREE,
    GROUPS,
    STUDENT,
    TRANSITIONS,
    Arm,
    Experiment,
    State,
    arm_of,
    check,
    is_held_out,
    next_state,
    unit_of,
    user_arm,
)

FREE_ARM = Arm("free", FREE)
STUDENT_ARM = Arm("student", FREE | {STUDENT})
PAID_ARM = Arm("paid", frozenset(GROUPS), weight=2)
RUNNING = Experiment("enrichment", (FREE_ARM, STUDENT_ARM, PAID_ARM), item_holdout_share=0.1, state=State.RUNNING)


def test_arms_are_drawn_by_their_weights() -> None:
    users = 40_000
    counts = {"free": 0, "student": 0, "paid": 0}
    for number in range(users):
        counts[arm_of([RUNNING], f"user {number}").name] += 1
    for name, share in (("free", 0.25), ("student", 0.25), ("paid", 0.5)):
        deviation = math.sqrt(users * share * (1 - share))
        assert abs(counts[name] - users * share) < 4 * deviation


def test_draws_of_two_experiments_and_of_items_are_independent() -> None:
    other = msgspec.structs.replace(RUNNING, name="other")
    both = sum(user_arm(RUNNING, f"u{n}") == PAID_ARM and user_arm(other, f"u{n}") == PAID_ARM for n in range(20_000))
    assert abs(both - 5_000) < 4 * math.sqrt(20_000 * 0.25 * 0.75)
    held = sum(is_held_out(RUNNING, f"i{n}") for n in range(20_000))
    assert abs(held - 2_000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)


@given(st.text(), st.text())
def test_a_person_always_sees_the_same(user: str, item: str) -> None:
    assert arm_of([RUNNING], user, item) == arm_of([RUNNING], user, item)
    assert 0 <= unit_of(user, item) < 1


def test_a_held_out_item_has_no_enrichment_in_any_arm_nor_outside() -> None:
    held = next(f"i{n}" for n in range(1000) if is_held_out(RUNNING, f"i{n}"))
    bought = next(f"i{n}" for n in range(1000) if not is_held_out(RUNNING, f"i{n}"))
    nobody_in = msgspec.structs.replace(RUNNING, traffic_share=0.0)
    for user in ("a", "b", "c", "d"):
        arm = arm_of([RUNNING], user)
        assert arm_of([RUNNING], user, bought).mask == arm.mask
        assert arm_of([RUNNING], user, held).mask == arm.mask - ENRICHMENTS
        assert arm_of([nobody_in], user, held) == msgspec.structs.replace(DEFAULT_ARM, mask=FREE)


def test_only_running_experiments_and_the_first_of_them_count() -> None:
    draft = msgspec.structs.replace(RUNNING, name="draft", state=State.DRAFT)
    second = msgspec.structs.replace(RUNNING, name="second")
    assert arm_of([], "u") == DEFAULT_ARM
    assert arm_of([draft], "u") == DEFAULT_ARM
    assert arm_of([draft, RUNNING, second], "u").experiment == "enrichment"


def test_traffic_outside_gets_the_default() -> None:
    half = msgspec.structs.replace(RUNNING, traffic_share=0.5)
    inside = sum(arm_of([half], f"u{n}").experiment != "" for n in range(10_000))
    assert abs(inside - 5_000) < 4 * math.sqrt(2_500)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": (FREE_ARM,)}, "two or more"),
        ({"arms": (FREE_ARM, FREE_ARM)}, "name of its own"),
        ({"arms": (FREE_ARM, Arm("x", frozenset({"magic"})))}, "magic"),
        ({"arms": (FREE_ARM, Arm("x", FREE))}, "same features"),
        ({"event_value": "much"}, "event_value"),
        ({"event_value": "0"}, "over 0"),
        ({"item_holdout_share": 0.9}, "half"),
    ],
)
def test_an_experiment_that_tells_nothing_is_refused(changes: dict[str, object], says: str) -> None:
    check(RUNNING)
    with pytest.raises(ConfigError, match=says):
        check(msgspec.structs.replace(RUNNING, **changes))


def test_states() -> None:
    assert next_state(State.DRAFT, "started") is State.RUNNING
    assert next_state(State.RUNNING, "stopped") is State.STOPPED
    for state, events in TRANSITIONS.items():
        for event in {"started", "stopped", "dropped"} - set(events):
            with pytest.raises(ConfigError, match=str(state)):
                next_state(state, event)
