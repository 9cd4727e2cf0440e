"""The life of a drill. docs/drill.md shows the table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    RUNNING = "running"  # its fault is in the snapshot
    ENDED = "ended"  # as it was meant to, or by a person; the report is being made
    ABORTED = "aborted"  # too few calls survived; the report is being made
    REPORTED = "reported"  # the report is signed


class Event(StrEnum):
    TIME_OVER = "time_over"
    PERSON_ENDED = "person_ended"
    SURVIVAL_LOW = "survival_low"
    SIGNED = "signed"


# What a state does not name changes nothing: two may end a drill at the same time.
TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.RUNNING: {
        Event.TIME_OVER: State.ENDED,
        Event.PERSON_ENDED: State.ENDED,
        Event.SURVIVAL_LOW: State.ABORTED,
    },
    State.ENDED: {Event.SIGNED: State.REPORTED},
    State.ABORTED: {Event.SIGNED: State.REPORTED},
    State.REPORTED: {},
}


def after(state: State, event: Event) -> State:
    return TRANSITIONS[state].get(event, state)
