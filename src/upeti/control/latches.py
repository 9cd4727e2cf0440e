"""Latches and incidents in the state: shut by what workers report, opened by a passing probe or a person.

Rules: every change is an act on the disk before the state changes. One latch for each subject and one incident for each
latch: who reports the same later is told of the first. What a person latched only a person opens. The states are those of
``gateway.latch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from upeti.control.store import Store, raise_counter
from upeti.control.tables_latches import incidents, latches
from upeti.core.errors import ConfigError
from upeti.gateway.keeper_link import Latched
from upeti.gateway.latch import TRANSITIONS, Event, Latch, Scope, State, Subject
from upeti.journal.acts import act, record_acts
from upeti.rights.conduct.case import CaseError, named_person

RULE: Final = "rule:signals"
PROBE: Final = "rule:probe"
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = (
    300.0  # paid up or unblocked, it serves again within five minutes; `upeti channels probe` asks at once
)
CLAIM_S: Final = 15.0  # longer than a probe takes: until then nobody else asks
_NS: Final = 10**9


class LatchRow(msgspec.Struct, frozen=True):
    """A latch as the state has it."""

    scope: str
    channel: str
    detail: str
    state: str
    since_ns: int
    incident: str
    meaning: str
    why: str
    by: str
    wire: str
    model: str
    probes: int
    next_probe_ns: int

    @property
    def subject(self) -> Subject:
        return Subject(Scope(self.scope), self.channel, self.detail)

    @property
    def latch(self) -> Latch:
        return Latch(
            self.subject,
            State(self.state),
            self.since_ns,
            self.incident,
            self.meaning,
            self.why,
            self.by,
            self.wire,
            self.model,
        )


class Incident(msgspec.Struct, frozen=True):
    """An incident as the state has it."""

    id: str
    scope: str
    channel: str
    detail: str
    opened_ns: int
    meaning: str
    signal: str
    status: int
    why: str
    sha256: str
    excerpt: str
    calls: int
    probes: int
    recovered_ns: int
    recovered_by: str


def pause_ns(probes: int) -> int:
    """Return how long after so many failed probes in a row the next one is due."""
    seconds: float = min(PAUSE_FIRST_S * 2 ** min(probes, 20), PAUSE_MAX_S)
    return int(seconds * _NS)


# -- reading -------------------------------------------------------------------------------------------------------------


def all_latches(store: Store) -> list[LatchRow]:
    """Return what is latched, by channel."""
    query = select(latches).order_by(latches.c.channel, latches.c.scope, latches.c.detail)
    with store.engine.connect() as connection:
        return [LatchRow(**row) for row in connection.execute(query).mappings()]


def all_incidents(store: Store, channel: str = "") -> list[Incident]:
    """Return all incidents, or those of one channel, newest first."""
    query = select(incidents).order_by(incidents.c.opened_ns.desc(), incidents.c.id)
    if channel:
        query = query.where(incidents.c.channel == channel)
    with store.engine.connect() as connection:
        return [Incident(**row) for row in connection.execute(query).mappings()]


def incident_of(store: Store, incident_id: str) -> Incident:
    """Raises ``ConfigError`` when there is none of this id."""
    with store.engine.connect() as connection:
        row = connection.execute(select(incidents).where(incidents.c.id == incident_id)).mappings().first()
    if row is None:
        raise ConfigError(f"there is no incident `{incident_id}`; `upeti incidents list` shows them")
    return Incident(**row)


def due(store: Store, now_ns: int) -> list[LatchRow]:
    """Return the latches whose next probe is due."""
    query = select(latches).where((latches.c.next_probe_ns > 0) & (latches.c.next_probe_ns <= now_ns))
    with store.engine.connect() as connection:
        return [LatchRow(**row) for row in connection.execute(query.order_by(latches.c.channel)).mappings()]


# -- by rule -------------------------------------------------------------------------------------------------------------


def signalled(store: Store, data_dir: Path, told: Latched, now_ns: int) -> Latch | None:
    """Take a worker's word that something is cut off; return the latch that holds, or None when this one is over."""
    latch = told.latch
    with store.writing() as connection:
        found = _find(connection, latch.subject)
        if found is not None:
            return found.latch
        over = connection.execute(select(incidents.c.recovered_ns).where(incidents.c.id == latch.incident)).scalar()
        if over is not None:
            return None  # a word that was on its way for long
        _record(data_dir, RULE, "latch.latched", latch, now_ns, latch.why, signal=told.signal, status=told.status)
        _begin(connection, latch, told)
        shut = msgspec.structs.replace(latch, state=State.LATCHED)
        _insert(connection, shut, next_probe_ns=now_ns + pause_ns(0))
        raise_counter(connection, "changes")
        return shut


def claim(store: Store, row: LatchRow, now_ns: int) -> bool:
    """Take the next probe of a latch; False when another node was first."""
    same = _is(row.subject) & (latches.c.next_probe_ns == row.next_probe_ns)
    with store.writing() as connection:
        later = update(latches).where(same).values(next_probe_ns=now_ns + int(CLAIM_S * _NS))
        return bool(connection.execute(later).rowcount)


def probed(store: Store, data_dir: Path, subject: Subject, *, passed: bool, what: str, now_ns: int) -> bool:
    """Take what a probe found; return whether that has opened the latch."""
    with store.writing() as connection:
        found = _find(connection, subject)
        if found is None:
            return False
        counted = update(incidents).where(incidents.c.id == found.incident).values(probes=incidents.c.probes + 1)
        connection.execute(counted)
        event = Event.PROBE_PASSED if passed else Event.PROBE_FAILED
        if TRANSITIONS[State(found.state)][event] is State.USABLE:
            _open(
                connection, data_dir, found, PROBE, f"a request that is known to be good was answered ({what})", now_ns
            )
            return True
        next_ns = 0 if found.state == State.HELD else now_ns + pause_ns(found.probes + 1)
        later = update(latches).where(_is(subject)).values(probes=found.probes + 1, next_probe_ns=next_ns)
        connection.execute(later)
        return False


def affected(store: Store, calls: Mapping[str, int]) -> None:
    """Count calls that met incidents."""
    with store.writing() as connection:
        for incident, count in calls.items():
            raised = update(incidents).where(incidents.c.id == incident).values(calls=incidents.c.calls + count)
            connection.execute(raised)


# -- by a person ---------------------------------------------------------------------------------------------------------


def person_latched(
    store: Store, data_dir: Path, channel: str, *, model: str = "", by: str, why: str, now_ns: int
) -> Latch:
    """Have a person latch a channel, or one of its models, until a person opens it. Raises ``ConfigError``."""
    person, reason = _who_and_why(by, why)
    subject = Subject(Scope.MODEL, channel, model) if model else Subject(Scope.CHANNEL, channel)
    latch = Latch(subject, State.HELD, now_ns, f"inc_{token_hex(8)}", "", f"{person}: {reason}", person)
    with store.writing() as connection:
        found = _find(connection, subject)
        if found is not None:
            latch = msgspec.structs.replace(found.latch, state=State.HELD, why=latch.why, by=person)
        _record(data_dir, person, "latch.held", latch, now_ns, reason)
        if found is None:
            _begin(connection, latch, None)
            _insert(connection, latch, next_probe_ns=0)
        else:
            held = {"state": State.HELD, "why": latch.why, "by": person, "next_probe_ns": 0}
            connection.execute(update(latches).where(_is(subject)).values(**held))
        raise_counter(connection, "changes")
    return latch


def person_opened(
    store: Store, data_dir: Path, channel: str, *, model: str = "", by: str, why: str, now_ns: int
) -> list[Subject]:
    """Have a person open all latches of a channel, or that of one of its models; return them. Raises ``ConfigError``."""
    person, reason = _who_and_why(by, why)
    wanted = latches.c.channel == channel
    if model:
        wanted &= (latches.c.scope == Scope.MODEL) & (latches.c.detail == model)
    with store.writing() as connection:
        rows = [LatchRow(**row) for row in connection.execute(select(latches).where(wanted)).mappings()]
        if not rows:
            what = f"the model `{model}` of the channel `{channel}`" if model else f"the channel `{channel}`"
            raise ConfigError(f"{what} is not latched; `upeti channels list` shows what is")
        for row in rows:
            _open(connection, data_dir, row, person, reason, now_ns)
        return [row.subject for row in rows]


def _who_and_why(by: str, why: str) -> tuple[str, str]:
    try:
        person = named_person(by)
    except CaseError as error:
        raise ConfigError(str(error)) from None
    if not why.strip():
        raise ConfigError("a decision needs a reason that others can read; give --why")
    return person, why.strip()


# -- rows ----------------------------------------------------------------------------------------------------------------


def _is(subject: Subject) -> Any:
    table = latches.c
    return (table.scope == subject.scope) & (table.channel == subject.channel) & (table.detail == subject.detail)


def _find(connection: Connection, subject: Subject) -> LatchRow | None:
    row = connection.execute(select(latches).where(_is(subject))).mappings().first()
    return LatchRow(**row) if row is not None else None


def _begin(connection: Connection, latch: Latch, told: Latched | None) -> None:
    subject = latch.subject
    connection.execute(
        insert(incidents).values(
            id=latch.incident,
            scope=subject.scope,
            channel=subject.channel,
            detail=subject.detail,
            opened_ns=latch.since_ns,
            meaning=latch.meaning,
            signal=told.signal if told is not None else "",
            status=told.status if told is not None else 0,
            why=latch.why,
            sha256=told.sha256 if told is not None else "",
            excerpt=told.excerpt if told is not None else "",
            calls=0,
            probes=0,
            recovered_ns=0,
            recovered_by="",
        )
    )


def _insert(connection: Connection, latch: Latch, *, next_probe_ns: int) -> None:
    subject = latch.subject
    connection.execute(
        insert(latches).values(
            scope=subject.scope,
            channel=subject.channel,
            detail=subject.detail,
            state=latch.state,
            since_ns=latch.since_ns,
            incident=latch.incident,
            meaning=latch.meaning,
            why=latch.why,
            by=latch.by,
            wire=latch.wire,
            model=latch.model,
            probes=0,
            next_probe_ns=next_probe_ns,
        )
    )


def _open(connection: Connection, data_dir: Path, row: LatchRow, actor: str, why: str, now_ns: int) -> None:
    _record(data_dir, actor, "latch.opened", row.latch, now_ns, why)
    connection.execute(delete(latches).where(_is(row.subject)))
    over = update(incidents).where(incidents.c.id == row.incident)
    connection.execute(over.values(recovered_ns=now_ns, recovered_by=actor))
    raise_counter(connection, "changes")


def _record(data_dir: Path, actor: str, kind: str, latch: Latch, now_ns: int, why: str, **detail: str | int) -> None:
    subject = latch.subject
    named = {"scope": subject.scope.value, "channel": subject.channel, "of": subject.detail, "meaning": latch.meaning}
    record_acts(data_dir, act(now_ns, actor, kind, latch.incident, why, **named, **detail))
