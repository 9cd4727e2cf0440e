"""Letting students in, step by step, and taking them out: which stage each is in, and what follows from it.

Rules: every move is an act on the disk before it takes effect, with who and why. A stage in which a student answers needs a
certificate in force. Of the versions with one name at their channel only one is asked. What workers and the students'
process do follows from the state alone: ``shares`` and ``served``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from upeti.control.models import move
from upeti.control.store import Store
from upeti.control.students import Student, student
from upeti.control.tables_latches import incidents
from upeti.control.tables_lineage import models as models_table
from upeti.control.tables_students import students as students_table
from upeti.control.tables_tasks import tasks
from upeti.core.config_learning import Learning
from upeti.core.errors import ConfigError
from upeti.core.events import ActDone
from upeti.gateway.snapshot import AUDITS, ShareView
from upeti.learning.served import AuditTerms, Served
from upeti.rights.stage import (
    ALARM,
    DEMOTED,
    LAPSED,
    PROMOTED,
    READMITTED,
    ROLLED_BACK,
    SERVES,
    STEPS,
    Stage,
    Step,
    after,
    answers,
)

if TYPE_CHECKING:
    from upeti.control.students_view import Audited

RULE_AUDITS: Final = "rule:audits"
RULE_STEPS: Final = "rule:steps"
INCIDENT_SCOPE: Final = "student"
NEVER: Final = 2.0  # a threshold that no confidence reaches
_NS_PER_DAY: Final = 86_400 * 10**9


# -- moves
# -------------------------------------------------------------------------------------------------------------


def promote(store: Store, name: str, *, by: str, why: str) -> Student:
    """Let a student into the next stage. Raises ``ConfigError``, ``StageError``, ``StoreError``."""
    return _move(store, student(store, name), PROMOTED, by=by, why=why)


def demote(store: Store, name: str, *, by: str, why: str) -> Student:
    """Bring a student back by one stage."""
    return _move(store, student(store, name), DEMOTED, by=by, why=why)


def roll_back(store: Store, name: str, *, by: str, why: str) -> Student:
    """Take a student out at once, by hand; its certificate stays."""
    return _move(store, student(store, name), ROLLED_BACK, by=by, why=why)


def readmit(store: Store, name: str, *, by: str, why: str) -> Student:
    """Let a student that was rolled back begin again in the shadow. After an alarm it needs a new certificate first."""
    one = student(store, name)
    if one.certificate is None:
        raise ConfigError(
            f"an alarm ended what was promised of `{one.model.id}`: `upeti students certify` it anew first"
        )
    return _move(store, one, READMITTED, by=by, why=why)


def alarm(store: Store, one: Student, why: str) -> Student:
    """Roll a student back because its audits gave the alarm: its certificate is over, and there is an incident."""
    return _move(store, one, ALARM, by=RULE_AUDITS, why=why)


def lapse(store: Store, one: Student, why: str) -> Student:
    """A certificate that nobody could audit is over: the student goes back into the shadow."""
    return _move(store, one, LAPSED, by=RULE_AUDITS, why=why)


def _move(store: Store, one: Student, event: str, *, by: str, why: str) -> Student:
    audited = audits_of(one)

    def also(connection: Connection, new: Stage, done: ActDone) -> None:
        if answers(new) and event == PROMOTED:
            _must_be_certified(one)
        if new in SERVES:
            _place_is_free(connection, one)
        changes: dict[str, Any] = {"audited_in_stage": audited}
        if event in (ALARM, LAPSED):
            changes["certificate"] = ""
        connection.execute(update(students_table).where(students_table.c.model == one.model.id).values(**changes))
        if event == ALARM:
            connection.execute(insert(incidents).values(_incident(one, done)))
        elif event == READMITTED:
            over = {"recovered_ns": done.at_ns, "recovered_by": by}
            mine = (incidents.c.scope == INCIDENT_SCOPE) & (incidents.c.meaning == ALARM)
            mine &= incidents.c.detail == one.model.id
            connection.execute(update(incidents).where(mine & (incidents.c.recovered_ns == 0)).values(**over))

    after(one.model.stage, event)  # that a stage has no such way is said before what else is wrong
    detail = {"certificate": one.certificate.id if one.certificate is not None else ""}
    move(store, one.model, event, by=by, why=why, tell=True, also=also, detail=detail)
    return student(store, one.model.id)


def _must_be_certified(one: Student) -> None:
    if one.certificate is None:
        raise ConfigError(
            f"`{one.model.id}` has no certificate, and no student answers without: `upeti students certify {one.model.id}`"
        )
    if lapses_ns(one) <= time.time_ns():
        raise ConfigError(
            f"the certificate of `{one.model.id}` has lapsed, nothing was audited for too long: "
            f"`upeti students certify {one.model.id}` it anew"
        )


def _place_is_free(connection: Connection, one: Student) -> None:
    table = models_table
    # By name alone: the students' process knows no channels.
    query = select(table.c.id, table.c.stage).where((table.c.model == one.model.model) & (table.c.id != one.model.id))
    for row in connection.execute(query):
        if Stage(row.stage) in SERVES:
            raise ConfigError(
                f"`{row.id}` is {row.stage} as {one.model.model}: roll it back or retire it, or register `{one.model.id}` "
                "under a name of its own (--model), as a candidate before it"
            )


def _incident(one: Student, done: ActDone) -> dict[str, Any]:
    return {
        "id": f"inc_{token_hex(10)}",
        "scope": INCIDENT_SCOPE,
        "channel": one.model.channel,
        "detail": one.model.id,
        "opened_ns": done.at_ns,
        "meaning": ALARM,
        "signal": "",
        "status": 0,
        "why": done.reason,
        "sha256": "",
        "excerpt": "",
        "calls": 0,
        "probes": 0,
        "recovered_ns": 0,
        "recovered_by": "",
    }


# -- what follows from the state
# -------------------------------------------------------------------------------------------------------------


def audits_of(one: Student) -> int:
    """Return how many answers were audited under the certificate in force."""
    if one.certificate is None:
        return 0
    return max((int(bets["all"]["n"]) for bets in one.certificate.audits["bets"]), default=0)


def lapses_ns(one: Student) -> int:
    """Return when the certificate in force is over if nothing is audited until then; 0 without one."""
    if one.certificate is None:
        return 0
    return one.heard_ns + one.certificate.lapses_after_days * _NS_PER_DAY


def shares(students: Iterable[Student]) -> dict[str, dict[str, ShareView]]:
    """Return channel → name there → how much of the calls the student in its stage is asked."""
    found: dict[str, dict[str, ShareView]] = {}
    for one in students:
        serves = SERVES.get(one.model.stage)
        if serves is not None:
            channel, name = one.place
            found.setdefault(channel, {})[name] = ShareView(serves.asked_ppm, one.sticky, one.teacher.channel)
    return found


def served(students: Iterable[Student], data_dir: Path) -> list[Served]:
    """Return what the students' process is to serve: those that are asked, each with what it may answer.

    In the shadow, and without a certificate, that is nothing.
    """
    found = []
    for one in students:
        serves = SERVES.get(one.model.stage)
        if serves is None:
            continue
        certificate = one.certificate
        found.append(
            Served(
                model=one.model.model,
                folder=str(data_dir / one.folder),
                sha256=one.sha256,
                task=one.task,
                template=one.template,
                threshold=certificate.threshold if certificate is not None else NEVER,
                shadow=not serves.answers,
                target=str(certificate.target.kind) if certificate is not None else "",
                only=tuple(limit.label for limit in certificate.target.classes) if certificate is not None else (),
                certificate=certificate.id if certificate is not None else "",
                lapses_ns=lapses_ns(one),
                audit=_audit_terms(one),
            )
        )
    return found


def _audit_terms(one: Student) -> AuditTerms | None:
    certificate = one.certificate
    if certificate is None:
        return None
    share = max(SERVES[one.model.stage].audit_share, one.audit_share)
    return AuditTerms(certificate.target, certificate.delta, share, f"{AUDITS}{one.task}")


def teachers(students: Iterable[Student]) -> dict[str, tuple[str, str]]:
    """Return the task → channel and model of the teacher, of the students that are audited."""
    return {one.task: one.teacher for one in students if one.model.stage in SERVES and one.certificate is not None}


def audit_limits(store: Store) -> dict[str, tuple[str, str]]:
    """Return the task → what its audits may cost in a month, as it was declared: a decimal text and its currency."""
    query = select(tasks.c.declaration)
    with store.engine.connect() as connection:
        found = list(connection.execute(query).scalars())
    return {one["name"]: (one["audit_limit"], one["audit_currency"]) for one in found}


def steps(learning: Learning) -> dict[Stage, Step]:
    """Return what a rule asks for before it promotes out of a stage: what is shipped, or what is configured."""
    found = dict(STEPS)
    for one in learning.step:
        stage = Stage(one.out_of)
        found[stage] = msgspec.structs.replace(found[stage], audits=one.audits, hours=one.hours, bound=one.bound)
    return found


def due(one: Student, audited: Audited, learning: Learning, now_ns: int) -> str:
    """Return why a rule promotes a student now; "" when it does not. ``audited`` is of its certificate in force."""
    step = steps(learning).get(one.model.stage)
    if step is None or learning.promote != "by_rule" or one.certificate is None or lapses_ns(one) <= now_ns:
        return ""
    audits = audited.audits - one.audited_in_stage
    hours = (now_ns - one.model.stage_ns) / 3_600e9
    if audits < step.audits or hours < step.hours or audited.evidence >= audited.alarm_at:
        return ""
    if step.bound and any(risk.high > risk.allowed for risk in audited.risks):
        return ""
    worst = max(audited.risks, key=lambda risk: risk.high / risk.allowed)
    return (
        f"{audits} answers audited in {hours:.1f} h in this stage; risk of `{worst.limit}` at most {worst.high:.2%} of "
        f"{worst.allowed:.2%} allowed"
    )


def why_not_answering(one: Student, learning: Learning, now_ns: int) -> str:
    """Return why a student answers nothing now; "" when it does."""
    if not learning.enabled:
        return "own models are turned off: `[learning] enabled`"
    if one.model.stage not in SERVES:
        return f"it is {one.model.stage}: {one.model.stage_why}"
    if one.certificate is None:
        return "it has no certificate"
    if lapses_ns(one) <= now_ns:
        return "its certificate has lapsed: nothing was audited for too long"
    if not answers(one.model.stage):
        return f"it is in the {one.model.stage}: it only says what it would have answered"
    return ""
