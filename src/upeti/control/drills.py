"""Drills in the state: begun by a person, ended by a person, by their time or by a rule, reported once.

Rules: whatever happens to a drill is an act on the disk before the state changes. One live drill on a channel at a time. A
running drill's fault is in the snapshot and carries its own end, so nobody has to be there to end it.
"""

from __future__ import annotations

import time
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from upeti.control.store import Store, raise_counter
from upeti.control.tables_drills import drills as table
from upeti.core.errors import ConfigError
from upeti.gateway.faults import MILLION, Fault, Kind
from upeti.journal.acts import act, record_acts
from upeti.outlook.drill_life import Event, State, after
from upeti.providers.signals import Signal, shipped
from upeti.rights.conduct.case import CaseError, named_person

LIVE: Final = "live"
SHADOW: Final = "shadow"
RULE_TIME: Final = "rule:time"
RULE_SURVIVAL: Final = "rule:survival"
MINUTES_MAX: Final = 240  # longer is no drill any more
_NS: Final = 10**9
# What is answered when nothing else is asked for: the account is gone.
DEFAULT_SIGNALS: Final = {
    "openai_compatible": "openai-account-deactivated",
    "azure": "azure-key-invalid",
    "anthropic": "anthropic-organization-disabled",
}
_ACTS: Final = {
    Event.TIME_OVER: "drill.ended",
    Event.PERSON_ENDED: "drill.ended",
    Event.SURVIVAL_LOW: "drill.aborted",
    Event.SIGNED: "drill.reported",
}


class DrillRow(msgspec.Struct, frozen=True):
    """A drill as the state has it. Times are nanoseconds since 1970, 0: not yet."""

    id: str
    mode: str
    channel: str
    node: str
    state: str
    by: str
    why: str
    from_ns: int
    until_ns: int
    share_millionths: int
    kind: str
    signal: str
    fault: dict[str, Any]
    abort_below: int
    ended_ns: int
    ended_by: str
    ended_why: str
    summary: dict[str, Any]
    envelope: bytes

    @property
    def over_ns(self) -> int:
        """The first moment without its fault."""
        return min(self.until_ns, self.ended_ns or self.until_ns)

    @property
    def is_live(self) -> bool:
        return self.mode == LIVE


class Wanted(msgspec.Struct, frozen=True):
    """A live drill that somebody asks for."""

    channel: str
    share_millionths: int
    minutes: float
    by: str
    why: str = ""
    kind: Kind = Kind.ERROR
    signal: str = ""
    delay_ms: int = 2_000
    abort_below: int = 90


def new_id() -> str:
    return f"drl_{token_hex(8)}"


# -- reading -------------------------------------------------------------------------------------------------------------


def all_drills(store: Store, channel: str = "") -> list[DrillRow]:
    """Return all drills, or those of a channel, newest first."""
    query = select(table).order_by(table.c.from_ns.desc(), table.c.id)
    if channel:
        query = query.where(table.c.channel == channel)
    with store.engine.connect() as connection:
        return [DrillRow(**row) for row in connection.execute(query).mappings()]


def drill_of(store: Store, drill_id: str) -> DrillRow:
    """Return a drill; ``last`` is the newest one. Raises ``ConfigError`` when there is none."""
    query = select(table).where(table.c.id == drill_id)
    if drill_id == "last":
        query = select(table).order_by(table.c.from_ns.desc(), table.c.id).limit(1)
    with store.engine.connect() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise ConfigError(f"there is no drill `{drill_id}`; `upeti drill list` shows them")
    return DrillRow(**row)


def unreported(store: Store, node: str) -> list[DrillRow]:
    """Return a node's live drills that are running or have no report yet."""
    states = [State.RUNNING, State.ENDED, State.ABORTED]
    query = select(table).where((table.c.mode == LIVE) & (table.c.node == node) & table.c.state.in_(states))
    with store.engine.connect() as connection:
        return [DrillRow(**row) for row in connection.execute(query.order_by(table.c.from_ns)).mappings()]


def faults_in_force(store: Store, now_ns: int) -> tuple[Fault, ...]:
    """Return the faults of the drills that run."""
    query = select(table.c.fault).where((table.c.state == State.RUNNING) & (table.c.until_ns > now_ns))
    with store.engine.connect() as connection:
        return tuple(fault_of(fault) for fault in connection.execute(query.order_by(table.c.id)).scalars())


def fault_of(fields: dict[str, Any]) -> Fault:
    named = msgspec.convert(fields, _FaultFields)
    return Fault(**msgspec.structs.asdict(named))


class _FaultFields(msgspec.Struct):
    """A fault by the names of its fields: it is an array only where it travels."""

    channel: str
    kind: Kind
    share_millionths: int
    from_ns: int
    until_ns: int
    drill: str
    status: int = 0
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    delay_ms: int = 0


# -- a live drill ----------------------------------------------------------------------------------------------------------


def begin(store: Store, wanted: Wanted, kind_of_channel: str, node: str, now_ns: int) -> DrillRow:
    """Begin a live drill. Raises ``ConfigError`` for what cannot be rehearsed so, or when one is running there."""
    by = _person(wanted.by)
    if not 0 < wanted.share_millionths <= MILLION:
        raise ConfigError("the share is above 0 and at most 100 %: write --live 5%")
    if not 0 < wanted.minutes <= MINUTES_MAX:
        raise ConfigError(f"a live drill lasts up to {MINUTES_MAX} minutes: write --minutes 10")
    drill_id = new_id()
    until_ns = now_ns + int(wanted.minutes * 60 * _NS)
    fields = _FaultFields(
        wanted.channel, wanted.kind, wanted.share_millionths, now_ns, until_ns, drill_id, delay_ms=wanted.delay_ms
    )
    signal = ""
    if wanted.kind is Kind.ERROR:
        row = _signal(wanted.signal or DEFAULT_SIGNALS.get(kind_of_channel, ""), kind_of_channel)
        signal = row.id
        fields.status, fields.headers, fields.body = row.statuses[0], row.example_headers, row.example.encode()
    elif wanted.signal:
        raise ConfigError(f"a signal is an error that is answered: leave out --signal, or --kind {wanted.kind}")
    made = DrillRow(
        drill_id,
        LIVE,
        wanted.channel,
        node,
        State.RUNNING,
        by,
        wanted.why.strip(),
        now_ns,
        until_ns,
        wanted.share_millionths,
        wanted.kind,
        signal,
        msgspec.to_builtins(fields),
        wanted.abort_below,
        0,
        "",
        "",
        {},
        b"",
    )
    with store.changing() as connection:
        where = (table.c.channel == wanted.channel) & (table.c.state == State.RUNNING)
        running = connection.execute(select(table.c.id).where(where)).scalar()
        if running is not None:
            raise ConfigError(
                f"the drill {running} runs on `{wanted.channel}` already; `upeti drill end {running}` ends it"
            )
        _record(store.data_dir, now_ns, by, "drill.begun", made, made.why)
        connection.execute(insert(table).values(msgspec.structs.asdict(made)))
    return made


def end(store: Store, drill_id: str, event: Event, *, by: str, why: str, now_ns: int | None = None) -> DrillRow:
    """Let something happen to a drill; what does not fit its state changes nothing. Raises ``ConfigError``."""
    at_ns = time.time_ns() if now_ns is None else now_ns
    actor = _person(by) if event is Event.PERSON_ENDED else by
    with store.writing() as connection:
        row = _locked(connection, drill_id)
        state = after(State(row.state), event)
        if state == row.state:
            return row
        new = msgspec.structs.replace(row, state=state, ended_ns=at_ns, ended_by=actor, ended_why=why)
        _record(store.data_dir, at_ns, actor, _ACTS[event], new, why)
        values = {"state": state, "ended_ns": at_ns, "ended_by": actor, "ended_why": why}
        connection.execute(update(table).where(table.c.id == drill_id).values(values))
        raise_counter(connection, "changes")
    return new


def shadow_row(channel: str, node: str, by: str, why: str, from_ns: int, until_ns: int, now_ns: int) -> DrillRow:
    """Return a drill in the shadow: it changes nothing, so it has ended when it begins. Raises ``ConfigError``."""
    by = _person(by)
    return DrillRow(
        new_id(),
        SHADOW,
        channel,
        node,
        State.ENDED,
        by,
        why.strip(),
        from_ns,
        until_ns,
        MILLION,
        "",
        "",
        {},
        0,
        now_ns,
        by,
        "",
        {},
        b"",
    )


# -- reports ---------------------------------------------------------------------------------------------------------------


def keep_report(store: Store, row: DrillRow, summary: dict[str, Any], envelope: bytes, sha256: str) -> DrillRow:
    """Keep the signed report of a drill: of a live one that has ended, or of a new shadow one. The first one stands."""
    now_ns = time.time_ns()
    with store.writing() as connection:
        found = connection.execute(select(table.c.state).where(table.c.id == row.id)).scalar()
        if found is not None and after(State(found), Event.SIGNED) == found:
            return _locked(connection, row.id)
        new = msgspec.structs.replace(row, state=State.REPORTED, summary=summary, envelope=envelope)
        _record(store.data_dir, now_ns, row.by, _ACTS[Event.SIGNED], new, row.why, report_sha256=sha256)
        if found is None:
            connection.execute(insert(table).values(msgspec.structs.asdict(new)))
        else:
            values = {"state": State.REPORTED, "summary": summary, "envelope": envelope}
            connection.execute(update(table).where(table.c.id == row.id).values(values))
    return new


def _locked(connection: Connection, drill_id: str) -> DrillRow:
    row = connection.execute(select(table).where(table.c.id == drill_id)).mappings().first()
    if row is None:
        raise ConfigError(f"there is no drill `{drill_id}`; `upeti drill list` shows them")
    return DrillRow(**row)


def _signal(name: str, kind: str) -> Signal:
    if not name:
        raise ConfigError(
            f"no provider documents how it cuts off a channel of kind {kind}: rehearse it with --kind refused"
        )
    row = shipped().named(name)
    if row is None:
        known = ", ".join(one.id for one in shipped().rows if not one.kinds or kind in one.kinds)
        raise ConfigError(f"there is no signal `{name}`; of a channel of kind {kind} there are: {known}")
    if row.kinds and kind not in row.kinds:
        raise ConfigError(f"the signal `{name}` is of {', '.join(row.kinds)}, and the channel is of kind {kind}")
    return row


def _person(name: str) -> str:
    try:
        return named_person(name)
    except CaseError as error:
        raise ConfigError(str(error)) from None


def _record(data_dir: Path, at_ns: int, actor: str, kind: str, row: DrillRow, why: str, **detail: Any) -> None:
    told = {
        "mode": row.mode,
        "channel": row.channel,
        "fault": row.kind,
        "signal": row.signal,
        "share_millionths": row.share_millionths,
        "from_ns": row.from_ns,
        "until_ns": row.until_ns,
    }
    record_acts(data_dir, act(at_ns, actor, kind, row.id, why, **told, **detail))
