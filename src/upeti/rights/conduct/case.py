"""The life of a case as a table: what may follow what, and who may do it.

Rules: one family of evidence opens a case; two independent ones warn, and throttle when they are seen again after the
warning; a rule never does more. A suspension needs a person with a name, evidence and a contact for the appeal. An
appeal that nobody decides in time lapses: the tenant is served again, throttled. A hold by rule is short and ends by
itself, and so does a throttle by rule. A case over several tenants is moved by persons only: what is shared may be a
public template. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Set
from enum import StrEnum
from typing import Final

from upeti.core.errors import UpetiError

DAY_NS: Final = 86_400 * 10**9
HOLD_NS_MAX: Final = DAY_NS  # a person can look within a day
FAMILIES_TO_ACT: Final = 2
_NAME: Final = re.compile(r"[^\W\d_][^\x00-\x1f\x7f:]{1,127}")


class CaseError(UpetiError):
    """What was asked for cannot be done with this case. The message names the cure."""


class State(StrEnum):
    OPEN = "open"  # looked at; nothing changes for the tenant
    WARNED = "warned"
    THROTTLED = "throttled"
    QUARANTINED = "quarantined"  # not served for a short time, by rule
    SUSPENDED = "suspended"  # not served, by a person
    APPEALED = "appealed"  # suspended still, and a person must decide before the clock runs out
    CLOSED = "closed"


class Event(StrEnum):
    EVIDENCE = "evidence"  # more of it
    WARN = "warn"
    THROTTLE = "throttle"
    THROTTLE_ENDED = "throttle_ended"
    HOLD = "hold"
    HOLD_ENDED = "hold_ended"
    SUSPEND = "suspend"
    APPEAL = "appeal"
    UPHOLD = "uphold"  # the suspension stays
    REDUCE = "reduce"  # served again, throttled
    LAPSE = "lapse"  # the appeal's clock ran out
    CLOSE = "close"


_ANY: Final = {Event.CLOSE: State.CLOSED}
LIFE_CYCLE: Final[dict[State, dict[Event, State]]] = {
    State.OPEN: {
        Event.EVIDENCE: State.OPEN,
        Event.WARN: State.WARNED,
        Event.THROTTLE: State.THROTTLED,
        Event.HOLD: State.QUARANTINED,
        Event.SUSPEND: State.SUSPENDED,
        **_ANY,
    },
    State.WARNED: {
        Event.EVIDENCE: State.WARNED,
        Event.THROTTLE: State.THROTTLED,
        Event.HOLD: State.QUARANTINED,
        Event.SUSPEND: State.SUSPENDED,
        **_ANY,
    },
    State.THROTTLED: {
        Event.EVIDENCE: State.THROTTLED,
        Event.THROTTLE: State.THROTTLED,  # again: by a person it has no end, by rule a new one
        Event.THROTTLE_ENDED: State.WARNED,
        Event.SUSPEND: State.SUSPENDED,
        **_ANY,
    },
    State.QUARANTINED: {
        Event.EVIDENCE: State.QUARANTINED,
        Event.HOLD_ENDED: State.OPEN,
        Event.SUSPEND: State.SUSPENDED,
        **_ANY,
    },
    State.SUSPENDED: {
        Event.EVIDENCE: State.SUSPENDED,
        Event.APPEAL: State.APPEALED,
        Event.REDUCE: State.THROTTLED,
        **_ANY,
    },
    State.APPEALED: {
        Event.EVIDENCE: State.APPEALED,
        Event.UPHOLD: State.SUSPENDED,
        Event.REDUCE: State.THROTTLED,
        Event.LAPSE: State.THROTTLED,
        **_ANY,
    },
    State.CLOSED: {},
}
# What a rule or a clock may do without a person. Everything else has a person's name on it.
BY_RULE: Final = frozenset(
    {
        Event.EVIDENCE,
        Event.WARN,
        Event.THROTTLE,
        Event.THROTTLE_ENDED,
        Event.HOLD,
        Event.HOLD_ENDED,
        Event.LAPSE,
    }
)
BY_CLOCK: Final = {
    State.THROTTLED: Event.THROTTLE_ENDED,
    State.QUARANTINED: Event.HOLD_ENDED,
    State.APPEALED: Event.LAPSE,
}
BEGINNINGS: Final = frozenset({State.OPEN, State.QUARANTINED})  # what a case can be opened as
NOT_SERVED: Final = frozenset({State.QUARANTINED, State.SUSPENDED, State.APPEALED})


def following(state: State, event: Event, *, person: str, families: Set[str]) -> State:
    """Return the state after ``event``. ``person`` is "" for a rule or a clock; ``families`` are those of the evidence.

    Raises ``CaseError`` for what this state, a rule, or so little evidence does not allow.
    """
    after = LIFE_CYCLE[state].get(event)
    if after is None:
        can = ", ".join(LIFE_CYCLE[state]) or "nothing: open a new one"
        raise CaseError(f"a case that is {state} takes no {event}; it takes {can}")
    if not person:
        if event not in BY_RULE:
            raise CaseError(f"{event} needs a person with a name, never a rule alone; give --by NAME")
        if event in (Event.WARN, Event.THROTTLE) and len(families) < FAMILIES_TO_ACT:
            raise CaseError(f"{event} by rule needs {FAMILIES_TO_ACT} families of evidence, here are {len(families)}")
    if event is Event.SUSPEND and not families:
        raise CaseError("there is no evidence in this case, and nobody is suspended without; add it first")
    return after


def step_by_rule(state: State, families: Set[str], *, tenants: int) -> Event | None:
    """Return what a rule does when a window has shown ``families`` at once; None: nothing but note it."""
    if len(families) < FAMILIES_TO_ACT or tenants != 1:
        return None
    if state is State.OPEN:
        return Event.WARN
    return Event.THROTTLE if state in (State.WARNED, State.THROTTLED) else None


def named_person(name: str) -> str:
    """Return the name of a person as it is kept. Raises ``CaseError`` for what is none."""
    name = " ".join(name.split())
    if not _NAME.fullmatch(name):
        raise CaseError(f"{name!r} is no name of a person; write who decides, such as --by 'head of legal'")
    return name


def reason_of(why: str) -> str:
    """Return a reason as it is kept. Raises ``CaseError`` for an empty one."""
    why = why.strip()
    if not why:
        raise CaseError("a decision needs a reason that the tenant can be told; give --why")
    return why
