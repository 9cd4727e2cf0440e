"""The stages of an own model, as tables. Pure.

Rules: a model answers only in a stage that serves; a right that is gone takes it out of any stage at once, and it comes
back at the beginning: what it was let in for before has to be shown again. A *student* is let in by certificate, one step
after the other; an own model on a channel of another kind answers as soon as it is registered, as nobody but its operator
promises anything of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from upeti.core.errors import UpetiError


class Stage(StrEnum):
    REGISTERED = "registered"  # may be named in routes
    SHADOW = "shadow"
    CANARY_1 = "canary_1"
    CANARY_10 = "canary_10"
    CANARY_50 = "canary_50"
    LIVE = "live"
    ROLLED_BACK = "rolled_back"
    QUARANTINED = "quarantined"  # a right that it needs is gone: routes go on without it
    RETIRED = "retired"


class StageError(UpetiError):
    """A model cannot go that way. The message says which ways there are."""


PROMOTED: Final = "promoted"
DEMOTED: Final = "demoted"
ALARM: Final = "alarm"
ROLLED_BACK: Final = "rolled_back"
LAPSED: Final = "lapsed"
READMITTED: Final = "readmitted"
LOST: Final = "right_lost"
RELEASED: Final = "released"
RETIRED: Final = "retired"

# Who may: all others are for a named person.
BY_RULE: Final = frozenset({PROMOTED, ALARM, LAPSED, LOST})
ONLY_BY_RULE: Final = frozenset({ALARM, LAPSED, LOST})

_ALWAYS: Final = {LOST: Stage.QUARANTINED, RETIRED: Stage.RETIRED}
_ANSWERS: Final = {
    ALARM: Stage.ROLLED_BACK,
    ROLLED_BACK: Stage.ROLLED_BACK,
    LAPSED: Stage.SHADOW,
    **_ALWAYS,
}

TRANSITIONS: Final[Mapping[Stage, Mapping[str, Stage]]] = MappingProxyType(
    {
        Stage.REGISTERED: {PROMOTED: Stage.SHADOW, **_ALWAYS},
        Stage.SHADOW: {
            PROMOTED: Stage.CANARY_1,
            DEMOTED: Stage.REGISTERED,
            ALARM: Stage.ROLLED_BACK,
            ROLLED_BACK: Stage.ROLLED_BACK,
            **_ALWAYS,
        },
        Stage.CANARY_1: {PROMOTED: Stage.CANARY_10, DEMOTED: Stage.SHADOW, **_ANSWERS},
        Stage.CANARY_10: {PROMOTED: Stage.CANARY_50, DEMOTED: Stage.CANARY_1, **_ANSWERS},
        Stage.CANARY_50: {PROMOTED: Stage.LIVE, DEMOTED: Stage.CANARY_10, **_ANSWERS},
        Stage.LIVE: {DEMOTED: Stage.CANARY_50, **_ANSWERS},
        Stage.ROLLED_BACK: {READMITTED: Stage.SHADOW, **_ALWAYS},
        Stage.QUARANTINED: {RELEASED: Stage.REGISTERED, RETIRED: Stage.RETIRED},
        Stage.RETIRED: {},
    }
)


class Serves(msgspec.Struct, frozen=True):
    """What a student does in a stage."""

    asked_ppm: int  # of a million calls
    answers: bool  # otherwise it only says what it would have answered; it needs a certificate to answer
    audit_share: float  # of its answers; the task's own where that is more


# A small share is audited whole: it costs little, and what is not known yet is learned soonest.
SERVES: Final[Mapping[Stage, Serves]] = MappingProxyType(
    {
        Stage.SHADOW: Serves(100_000, answers=False, audit_share=0.1),
        Stage.CANARY_1: Serves(10_000, answers=True, audit_share=1.0),
        Stage.CANARY_10: Serves(100_000, answers=True, audit_share=0.2),
        Stage.CANARY_50: Serves(500_000, answers=True, audit_share=0.05),
        Stage.LIVE: Serves(1_000_000, answers=True, audit_share=0.02),
    }
)


class Step(msgspec.Struct, frozen=True):
    """What has to be there before a rule promotes a student out of a stage."""

    audits: int  # answers audited in this stage
    hours: float  # in this stage
    bound: bool  # the upper bound of the present risk is below what was promised
    why: str


STEPS: Final[Mapping[Stage, Step]] = MappingProxyType(
    {
        Stage.SHADOW: Step(30, 1.0, bound=False, why="its template, its form and its speed were seen on live calls"),
        Stage.CANARY_1: Step(
            50, 4.0, bound=False, why="a fault that breaks every fourth answer has most often rung the alarm by then"
        ),
        Stage.CANARY_10: Step(
            200, 24.0, bound=True, why="a whole day, so that every hour's kind of calls was among them"
        ),
        Stage.CANARY_50: Step(300, 24.0, bound=True, why="audits of live traffic alone show what was certified"),
    }
)


def answers(stage: Stage) -> bool:
    """Say whether a student gives answers in this stage."""
    return stage in SERVES and SERVES[stage].answers


def after(stage: Stage, event: str) -> Stage:
    """Return the stage after ``event``. Raises ``StageError``."""
    ways = TRANSITIONS[stage]
    if event not in ways:
        known = ", ".join(sorted(ways)) or "none"
        raise StageError(f"a model that is {stage} cannot be {event}; from there: {known}")
    return ways[event]
