"""Cases of conduct in the state: opened, moved along the table in ``rights.conduct.case``, read.

Rules: every move is an act on the disk before the state changes, with who did it and why; what happened is appended,
never changed. Evidence is kept as it was given; a suspension names the SHA-256 of the bundle it stands on, and
nobody is suspended twice on the same one. One live case for each kind and set of tenants: what comes later is added.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from upeti.control.store import Store
from upeti.control.tables_conduct import case_events, cases
from upeti.core.config import Conduct
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, record_acts
from upeti.rights.conduct.case import (
    BEGINNINGS,
    BY_CLOCK,
    DAY_NS,
    HOLD_NS_MAX,
    NOT_SERVED,
    CaseError,
    Event,
    State,
    following,
    named_person,
    reason_of,
    step_by_rule,
)

RULE: Final = "rule:conduct"
CLOCK: Final = "rule:clock"
REPORT: Final = "report"  # kind of a case that a person opens
CLUSTER_PREFIX: Final = "cluster:"  # of the kinds of cases over keys or companies that belong together


class Case(msgspec.Struct, frozen=True):
    """A case as it stands."""

    id: str
    tenants: tuple[str, ...]
    kind: str
    state: State
    families: tuple[str, ...]
    opened_ns: int
    changed_ns: int
    until_ns: int = 0  # when its clock ends the state; 0: no clock
    suspended_ns: int = 0
    suspended_by: str = ""
    bundle_events: int = 0  # the suspension stands on the evidence of so many events
    bundle_sha256: str = ""


class CaseEvent(msgspec.Struct, frozen=True):
    """One thing that happened in a case."""

    case_id: str
    number: int
    at_ns: int
    event: str
    state: State
    actor: str
    reason: str
    act: str
    evidence: dict[str, Any] | None = None


class Move(msgspec.Struct, frozen=True):
    """Who moves a case, how and why. ``person`` is "" for a rule or a clock."""

    event: Event
    why: str
    person: str = ""
    actor: str = RULE  # when it is no person
    until_ns: int = 0


def open_case(
    store: Store,
    data_dir: Path,
    tenant: str,
    kind: str,
    evidence: Mapping[str, Any],
    *,
    state: str = "open",
    until_ns: int = 0,
    family: str = "",
    others: Sequence[str] = (),
    at_ns: int | None = None,
) -> str:
    """Open a case by rule, or add to the live one of the same kind and tenants; return its id.

    ``state`` is ``open``, or ``quarantined`` for a hold until ``until_ns``, at most a day. ``family`` is that of the
    evidence, the kind where it is left out; ``others`` are further tenants of a cluster. Raises ``CaseError``.
    """
    now_ns = time.time_ns() if at_ns is None else at_ns
    beginning = State(state)
    if beginning not in BEGINNINGS:
        raise CaseError(f"a case begins as {' or '.join(sorted(BEGINNINGS))}, not as {state}")
    if beginning is State.QUARANTINED and not now_ns < until_ns <= now_ns + HOLD_NS_MAX:
        raise CaseError("a hold by rule ends by itself within a day; give until_ns in that time")
    tenants = tuple(sorted({tenant, *others}))
    why = str(evidence.get("what", kind))
    with store.changing() as connection:
        # A hold ends in an open case: one that throttles goes on beside it.
        found = _live(connection, kind, tenants, but=State.THROTTLED if beginning is State.QUARANTINED else None)
        if found is None:
            found = _insert(connection, data_dir, kind, tenants, now_ns, _Found(why, family or kind, evidence))
        else:
            found = _add(connection, data_dir, found, tenants, now_ns, _Found(why, family or kind, evidence))
        if beginning is State.QUARANTINED and found.state in (State.OPEN, State.WARNED):
            _move(connection, data_dir, found, Move(Event.HOLD, why, until_ns=until_ns), now_ns)
        return found.id


def see(
    store: Store,
    data_dir: Path,
    tenants: Sequence[str],
    found: Mapping[str, Mapping[str, Any]],
    settings: Conduct,
    *,
    kind: str = "conduct",
    at_ns: int | None = None,
) -> Case | None:
    """Take what one look has found, family → evidence: open a case or add to it, and do what the rule does.

    Returns None when nothing was found.
    """
    if not found:
        return None
    now_ns = time.time_ns() if at_ns is None else at_ns
    case_id = ""
    for family, evidence in found.items():
        case_id = open_case(
            store, data_dir, tenants[0], kind, evidence, family=family, others=tenants[1:], at_ns=now_ns
        )
    case = case_of(store, case_id)
    event = step_by_rule(case.state, found.keys(), tenants=len(case.tenants))
    if event is None or (event is Event.THROTTLE and case.state is State.THROTTLED and not case.until_ns):
        return case  # a throttle by a person has no end that a rule would put off
    until_ns = now_ns + settings.throttle_days * DAY_NS if event is Event.THROTTLE else 0
    why = f"{len(found)} independent families of evidence in one look: {', '.join(sorted(found))}"
    return move(store, data_dir, case_id, Move(event, why, until_ns=until_ns), at_ns=now_ns)


def report(store: Store, data_dir: Path, tenant: str, what: str, *, person: str, why: str) -> Case:
    """Have a person open a case on something that came from outside, or add to the live one. Raises ``CaseError``."""
    by, reason = named_person(person), reason_of(why)
    evidence = {"what": reason_of(what), "reported_by": by}
    now_ns = time.time_ns()
    with store.changing() as connection:
        found = _live(connection, REPORT, (tenant,))
        entry = _Found(reason, REPORT, evidence, by)
        if found is None:
            return _insert(connection, data_dir, REPORT, (tenant,), now_ns, entry)
        return _add(connection, data_dir, found, (tenant,), now_ns, entry)


def move(store: Store, data_dir: Path, case_id: str, wanted: Move, *, at_ns: int | None = None) -> Case:
    """Move a case. Raises ``CaseError`` when the table, the evidence or the name do not allow it."""
    now_ns = time.time_ns() if at_ns is None else at_ns
    with store.changing() as connection:
        return _move(connection, data_dir, _read(connection, case_id), wanted, now_ns)


def decide(
    store: Store,
    data_dir: Path,
    case_id: str,
    event: Event,
    *,
    person: str,
    why: str,
    settings: Conduct,
    at_ns: int | None = None,
) -> Case:
    """Have a person move a case, with the clocks of ``settings``. Raises ``CaseError``, ``ConfigError``."""
    now_ns = time.time_ns() if at_ns is None else at_ns
    if event is Event.SUSPEND and not settings.appeal_contact:
        raise ConfigError(
            "nobody is suspended who cannot appeal; set appeal_contact in [conduct] to an address that is read"
        )
    until_ns = 0
    if event is Event.APPEAL:
        until_ns = now_ns + settings.appeal_days * DAY_NS
    return move(store, data_dir, case_id, Move(event, why, named_person(person), until_ns=until_ns), at_ns=now_ns)


def end_clocks(store: Store, data_dir: Path, settings: Conduct, now_ns: int) -> list[Case]:
    """End what is to end by itself: holds, throttles by rule, appeals that nobody decided; return those cases."""
    with store.engine.connect() as connection:
        query = select(cases.c.id).where((cases.c.until_ns > 0) & (cases.c.until_ns <= now_ns)).order_by(cases.c.id)
        due = list(connection.execute(query).scalars())
    ended = []
    for case_id in due:
        with store.changing() as connection:
            case = _read(connection, case_id)
            event = BY_CLOCK.get(case.state)
            if event is None or not 0 < case.until_ns <= now_ns:
                continue  # another node was first
            why = {
                Event.HOLD_ENDED: "the hold's time is over",
                Event.THROTTLE_ENDED: "a throttle by rule ends by itself",
                Event.LAPSE: "nobody decided the appeal in time",
            }[event]
            until_ns = now_ns + settings.throttle_days * DAY_NS if event is Event.LAPSE else 0
            wanted = Move(event, why, actor=CLOCK, until_ns=until_ns)
            ended.append(_move(connection, data_dir, case, wanted, now_ns))
    return ended


def case_of(store: Store, case_id: str) -> Case:
    """Raises ``CaseError`` when there is no such case."""
    with store.engine.connect() as connection:
        return _read(connection, case_id)


def all_cases(store: Store, *, live: bool = False) -> list[Case]:
    """Return the cases, newest first; ``live``: only those that are not closed."""
    query = select(cases).order_by(cases.c.id.desc())
    if live:
        query = query.where(cases.c.state != State.CLOSED)
    with store.engine.connect() as connection:
        return [_case(row) for row in connection.execute(query).mappings()]


def live_states(store: Store) -> dict[str, int]:
    """Return how many cases are in each state but closed."""
    query = select(cases.c.state, func.count()).where(cases.c.state != State.CLOSED).group_by(cases.c.state)
    with store.engine.connect() as connection:
        return {state: int(count) for state, count in connection.execute(query)}


def events_of(store: Store, case_id: str) -> list[CaseEvent]:
    """Return what happened in a case, oldest first. Raises ``CaseError`` when there is no such case."""
    with store.engine.connect() as connection:
        _read(connection, case_id)
        return _events(connection, case_id)


def bundle(case: Case, events: Iterable[CaseEvent]) -> bytes:
    """Return the evidence of ``events`` as canonical JSON: the same evidence always gives the same bytes."""
    items = [{"number": each.number, "at_ns": each.at_ns, **each.evidence} for each in events if each.evidence]
    whole = {"case": case.id, "tenants": case.tenants, "kind": case.kind, "evidence": items}
    return msgspec.json.encode(whole, order="deterministic")


class _Found(NamedTuple):
    """Evidence on its way into a case."""

    why: str
    family: str
    evidence: Mapping[str, Any]
    actor: str = RULE


def _move(connection: Connection, data_dir: Path, case: Case, wanted: Move, now_ns: int) -> Case:
    after = following(case.state, wanted.event, person=wanted.person, families=frozenset(case.families))
    why = reason_of(wanted.why)
    if wanted.event is Event.UPHOLD and wanted.person.casefold() == case.suspended_by.casefold():
        raise CaseError(
            f"an appeal is upheld by another person than {case.suspended_by}, who suspended; give another --by, "
            "or reduce or close it"
        )
    changes: dict[str, Any] = {"state": after, "changed_ns": now_ns, "until_ns": wanted.until_ns}
    if after in NOT_SERVED:
        changes["suspended_ns"] = case.suspended_ns or now_ns
    else:
        changes |= {"suspended_ns": 0, "suspended_by": ""}
    detail: dict[str, Any] = {"from": case.state, "to": after, "tenants": case.tenants, "until_ns": wanted.until_ns}
    if wanted.event is Event.SUSPEND:
        seen = _events(connection, case.id)
        changes["bundle_events"] = len(seen)
        changes["bundle_sha256"] = hashlib.sha256(bundle(case, seen)).hexdigest()
        if changes["bundle_sha256"] == case.bundle_sha256:
            raise CaseError("it was suspended on the same evidence before, and that has ended; add what is new")
        changes["suspended_by"] = wanted.person
        changes["suspended_ns"] = now_ns
        detail["bundle_sha256"] = changes["bundle_sha256"]
    actor = wanted.person or wanted.actor
    made = act(now_ns, actor, f"conduct.{wanted.event}", case.id, why, **detail)
    record_acts(data_dir, made)
    _append(connection, case.id, (now_ns, wanted.event, after, actor, why, made.act_id, ""))
    connection.execute(update(cases).where(cases.c.id == case.id).values(**changes))
    return _read(connection, case.id)


def _insert(
    connection: Connection, data_dir: Path, kind: str, tenants: tuple[str, ...], now_ns: int, found: _Found
) -> Case:
    number = int(connection.execute(select(func.count()).select_from(cases)).scalar_one()) + 1
    why, family, evidence, actor = found
    case = Case(f"C-{number:06d}", tenants, kind, State.OPEN, (family,), now_ns, now_ns)
    text = _evidence_text(family, evidence)
    made = act(
        now_ns, RULE, "conduct.open", case.id, why, tenants=tenants, family=family, evidence_sha256=_sha256(text)
    )
    record_acts(data_dir, made)
    row = msgspec.structs.asdict(case) | {"tenants": list(tenants), "families": [family]}
    connection.execute(insert(cases).values(row))
    _append(connection, case.id, (now_ns, "open", State.OPEN, actor, why, made.act_id, text))
    return case


def _add(
    connection: Connection, data_dir: Path, case: Case, tenants: tuple[str, ...], now_ns: int, found: _Found
) -> Case:
    why, family, evidence, actor = found
    following(case.state, Event.EVIDENCE, person="", families=frozenset(case.families))
    text = _evidence_text(family, evidence)
    families, everyone = sorted({*case.families, family}), sorted({*case.tenants, *tenants})
    made = act(
        now_ns, actor, "conduct.evidence", case.id, why, tenants=everyone, family=family, evidence_sha256=_sha256(text)
    )
    record_acts(data_dir, made)
    _append(connection, case.id, (now_ns, Event.EVIDENCE, case.state, actor, why, made.act_id, text))
    connection.execute(update(cases).where(cases.c.id == case.id).values(families=families, tenants=everyone))
    return _read(connection, case.id)


def _append(connection: Connection, case_id: str, values: tuple[int, str, str, str, str, str, str]) -> None:
    query = select(func.count()).select_from(case_events).where(case_events.c.case_id == case_id)
    number = int(connection.execute(query).scalar_one()) + 1
    names = ("at_ns", "event", "state", "actor", "reason", "act", "evidence")
    row = dict(zip(names, values, strict=True)) | {"case_id": case_id, "number": number}
    connection.execute(insert(case_events).values(row))


def _evidence_text(family: str, evidence: Mapping[str, Any]) -> str:
    return msgspec.json.encode({"family": family, **evidence}, order="deterministic").decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _live(connection: Connection, kind: str, tenants: tuple[str, ...], but: State | None = None) -> Case | None:
    """Return the live case that evidence on these tenants belongs to.

    Which tenants a cluster has is different at each look: its case takes new ones while nobody has decided on it.
    """
    query = select(cases).where((cases.c.kind == kind) & (cases.c.state != State.CLOSED)).order_by(cases.c.id)
    for row in connection.execute(query).mappings():
        case = _case(row)
        widens = kind.startswith(CLUSTER_PREFIX) and (case.state is State.OPEN or set(tenants) <= set(case.tenants))
        if case.state is not but and (widens or case.tenants == tenants):
            return case
    return None


def _read(connection: Connection, case_id: str) -> Case:
    row = connection.execute(select(cases).where(cases.c.id == case_id)).mappings().first()
    if row is None:
        raise CaseError(f"there is no case `{case_id}`; `upeti conduct list --all` shows them")
    return _case(row)


def _case(row: Mapping[Any, Any]) -> Case:
    return msgspec.convert(_plain(row), Case)


def _events(connection: Connection, case_id: str) -> list[CaseEvent]:
    query = select(case_events).where(case_events.c.case_id == case_id).order_by(case_events.c.number)
    found = []
    for row in connection.execute(query).mappings():
        text = row["evidence"]
        found.append(
            msgspec.convert(_plain(row) | {"evidence": msgspec.json.decode(text) if text else None}, CaseEvent)
        )
    return found


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Names of columns are of a kind of text of SQLAlchemy's own, which msgspec does not take for a text."""
    return {str(name): value for name, value in row.items()}
