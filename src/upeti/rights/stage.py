"""The stages of an own model, as a table. Pure.

Rules: a model answers only in a stage that serves; a right that is gone takes it out of any stage at once, and it comes
back at the beginning: what it was let in for before has to be shown again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from upeti.core.errors import UpetiError


class Stage(StrEnum):
    REGISTERED = "registered"  # may be named in routes; nobody has limited its share
    QUARANTINED = "quarantined"  # a right that it needs is gone: routes go on without it
    RETIRED = "retired"


class StageError(UpetiError):
    """A model cannot go that way. The message says which ways there are."""


LOST: Final = "right_lost"
RELEASED: Final = "released"
RETIRED: Final = "retired"

TRANSITIONS: Final[Mapping[Stage, Mapping[str, Stage]]] = MappingProxyType(
    {
        Stage.REGISTERED: {LOST: Stage.QUARANTINED, RETIRED: Stage.RETIRED},
        Stage.QUARANTINED: {RELEASED: Stage.REGISTERED, RETIRED: Stage.RETIRED},
        Stage.RETIRED: {},
    }
)


def after(stage: Stage, event: str) -> Stage:
    """Return the stage after ``event``. Raises ``StageError``."""
    ways = TRANSITIONS[stage]
    if event not in ways:
        known = ", ".join(sorted(ways)) or "none"
        raise StageError(f"a model that is {stage} cannot be {event}; from there: {known}")
    return ways[event]
