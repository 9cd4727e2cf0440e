from __future__ import annotations

import pytest

from upeti.rights.stage import (
    BY_RULE,
    LAPSED,
    LOST,
    ONLY_BY_RULE,
    PROMOTED,
    RELEASED,
    SERVES,
    STEPS,
    TRANSITIONS,
    Stage,
    StageError,
    after,
    answers,
)


def test_the_way_in_has_growing_shares_and_ends_live() -> None:
    stage, shares = Stage.REGISTERED, []
    while PROMOTED in TRANSITIONS[stage]:
        stage = after(stage, PROMOTED)
        if answers(stage):
            shares.append(SERVES[stage].asked_ppm)
    assert stage is Stage.LIVE
    assert shares == [10_000, 100_000, 500_000, 1_000_000]


def test_a_right_that_is_gone_takes_a_model_out_of_any_stage_and_it_comes_back_at_the_beginning() -> None:
    for stage in set(Stage) - {Stage.QUARANTINED, Stage.RETIRED}:
        assert after(stage, LOST) is Stage.QUARANTINED, stage
    assert after(Stage.QUARANTINED, RELEASED) is Stage.REGISTERED


def test_only_stages_on_the_way_in_are_asked_and_each_has_its_step() -> None:
    assert set(STEPS) == {stage for stage in SERVES if PROMOTED in TRANSITIONS[stage]}
    for stage in Stage:
        assert not answers(stage) or LAPSED in TRANSITIONS[stage], "what answers may lapse"
        assert all(event in BY_RULE for event in ONLY_BY_RULE)
    for stage, ways in TRANSITIONS.items():
        for event, then in ways.items():
            if event not in (PROMOTED,) and then in SERVES:
                # Nothing but a promotion gives a larger share.
                was = SERVES[stage].asked_ppm if answers(stage) else SERVES[Stage.SHADOW].asked_ppm
                assert not answers(then) or SERVES[then].asked_ppm <= was


def test_a_way_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(StageError, match="live cannot be promoted; from there: alarm, demoted, lapsed, retired"):
        after(Stage.LIVE, PROMOTED)
