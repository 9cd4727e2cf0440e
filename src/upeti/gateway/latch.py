"""Latches: a channel, its key or one of its models that a provider has cut off stays out until it is known to work again.

Rules: a breaker is about health and never takes the last candidate away; a latch is about being cut off and does: asking
again only burns the account further, or costs time that the call does not have. A latch holds in this worker at once; the
keeper writes it down, tells the others and says when it is open again. Time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec


class State(StrEnum):
    USABLE = "usable"
    SUSPECTED = "suspected"  # a probe is under way; calls go on
    LATCHED = "latched"  # by a signal or a probe: opened by a probe or a person
    HELD = "held"  # by a person: opened by a person


class Event(StrEnum):
    UNEXPECTED = "unexpected"  # an error that no row of the table of signals knows
    SIGNAL = "signal"  # an error that says: cut off
    PROBE_PASSED = "probe_passed"
    PROBE_FAILED = "probe_failed"
    PERSON_LATCHED = "person_latched"
    PERSON_OPENED = "person_opened"


# Every state knows every event. docs/cut-off.md shows it.
TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.USABLE: {
        Event.UNEXPECTED: State.SUSPECTED,
        Event.SIGNAL: State.LATCHED,
        Event.PROBE_PASSED: State.USABLE,
        Event.PROBE_FAILED: State.LATCHED,
        Event.PERSON_LATCHED: State.HELD,
        Event.PERSON_OPENED: State.USABLE,
    },
    State.SUSPECTED: {
        Event.UNEXPECTED: State.SUSPECTED,
        Event.SIGNAL: State.LATCHED,
        Event.PROBE_PASSED: State.USABLE,
        Event.PROBE_FAILED: State.LATCHED,
        Event.PERSON_LATCHED: State.HELD,
        Event.PERSON_OPENED: State.USABLE,
    },
    State.LATCHED: {
        Event.UNEXPECTED: State.LATCHED,
        Event.SIGNAL: State.LATCHED,
        Event.PROBE_PASSED: State.USABLE,
        Event.PROBE_FAILED: State.LATCHED,
        Event.PERSON_LATCHED: State.HELD,
        Event.PERSON_OPENED: State.USABLE,
    },
    State.HELD: {
        Event.UNEXPECTED: State.HELD,
        Event.SIGNAL: State.HELD,
        Event.PROBE_PASSED: State.HELD,
        Event.PROBE_FAILED: State.HELD,
        Event.PERSON_LATCHED: State.HELD,
        Event.PERSON_OPENED: State.USABLE,
    },
}
SHUT: Final = frozenset({State.LATCHED, State.HELD})


class Scope(StrEnum):
    """What a latch is on."""

    CHANNEL = "channel"
    KEY = "key"  # the channel with the key that it has now: another key is not latched
    MODEL = "model"  # one model of the channel


class Subject(msgspec.Struct, frozen=True, array_like=True):
    """A channel, its key (``detail``: the key's fingerprint), or one of its models (``detail``: the model's name)."""

    scope: Scope
    channel: str
    detail: str = ""

    @property
    def words(self) -> str:
        if self.scope is Scope.MODEL:
            return f"the model {self.detail!r} on the channel {self.channel!r}"
        return f"the {'key of the ' if self.scope is Scope.KEY else ''}channel {self.channel!r}"


class Latch(msgspec.Struct):
    """One latch as a worker knows it, as the snapshot carries it and as it travels between worker and keeper."""

    subject: Subject
    state: State
    since_ns: int
    incident: str
    meaning: str  # a providers.signals.Meaning; "" when a person latched it
    why: str
    by: str = ""  # the person who latched it
    # What to probe with, for who has not seen the channel work.
    wire: str = ""
    model: str = ""


class Latches:
    """What is latched, as this worker knows it."""

    def __init__(self) -> None:
        self._latches: dict[Subject, Latch] = {}
        self._confirmed: set[Subject] = set()  # a snapshot has had it: one without it says that it is open
        self.affected: dict[str, int] = {}  # incident → calls that met it and were not told of yet

    def __iter__(self) -> Iterator[Latch]:
        return iter(self._latches.values())

    def __len__(self) -> int:
        return len(self._latches)

    def on(self, subject: Subject) -> Latch | None:
        return self._latches.get(subject)

    def covering(self, channel: str, key_id: str, model: str) -> Latch | None:
        """Return a latch that keeps this candidate out, if there is one."""
        if not self._latches:
            return None
        for subject in (
            Subject(Scope.CHANNEL, channel),
            Subject(Scope.KEY, channel, key_id),
            Subject(Scope.MODEL, channel, model),
        ):
            latch = self._latches.get(subject)
            if latch is not None:
                return latch
        return None

    def happened(self, latch: Latch, event: Event) -> tuple[Latch, bool]:
        """Take an event on the subject of ``latch``; return the latch that then holds and whether that is a new one."""
        before = self._latches.get(latch.subject)
        state = TRANSITIONS[before.state if before is not None else State.USABLE][event]
        if before is not None and state is before.state:
            return before, False
        latch.state = state
        if state in SHUT:
            self._latches[latch.subject] = latch
            return latch, True
        self.opened(latch.subject)
        return latch, before is not None

    def shut(self, latch: Latch) -> bool:
        """Take what the keeper says; return whether it is new here."""
        before = self._latches.get(latch.subject)
        self._latches[latch.subject] = latch
        if before is not None and before.incident != latch.incident and before.incident in self.affected:
            met = self.affected.pop(before.incident)
            self.affected[latch.incident] = self.affected.get(latch.incident, 0) + met
        return before is None or before.state is not latch.state

    def opened(self, subject: Subject) -> bool:
        """Take the keeper's word that it works again; return whether it was latched here."""
        self._confirmed.discard(subject)
        return self._latches.pop(subject, None) is not None

    def met(self, latch: Latch) -> None:
        """A call met ``latch``."""
        self.affected[latch.incident] = self.affected.get(latch.incident, 0) + 1

    def told(self) -> dict[str, int]:
        """Return how many calls met each incident since this was last asked."""
        affected, self.affected = self.affected, {}
        return affected

    def confirm(self, latches: Iterable[Latch]) -> None:
        """A new snapshot: what it has is latched, and what one before had and it has not is open.

        What no snapshot has had yet is this worker's own news, on its way to the keeper, and stays.
        """
        now = {latch.subject: latch for latch in latches}
        for subject in [subject for subject in self._confirmed if subject not in now]:
            self._latches.pop(subject, None)
        self._latches.update(now)
        self._confirmed = set(now)

    @property
    def unconfirmed(self) -> list[Latch]:
        """What the keeper may not have heard of."""
        return [latch for subject, latch in self._latches.items() if subject not in self._confirmed]
