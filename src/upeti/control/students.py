"""Students in the state: what each is, the certificates that it was given, and what audits have shown since.

Rules: a student is a registered model (``control/models``) that answers calls of one task under a certificate. Its folder is
copied into the data directory and named by its digest; nothing in it is ever changed. What was certified is bound to the
template and the teacher that the student was added with.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select, update

from upeti.control import models
from upeti.control.models import Model
from upeti.control.store import Store, StoreError
from upeti.control.tables_students import student_certificates, students
from upeti.core.amount import AmountError, parse_pico
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, record_acts
from upeti.learning.answers import AnswerForm
from upeti.learning.target import Target
from upeti.learning.template import Template
from upeti.rights.stage import Stage
from upeti.rights.terms import Terms

FOLDER: Final = "students"  # in the data directory

Digest = Callable[[Path], str]


class Teacher(NamedTuple):
    """Whose answers a student was trained on, and is audited against."""

    channel: str
    model: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A student to be added: what its calls look like, who teaches it, and the folder that training has written."""

    model: models.Wanted
    task: str
    form: AnswerForm
    template: Template
    teacher: Teacher
    folder: Path
    sha256: str
    sticky: bool = False
    audit_share: float = 0.02
    training_cost: str = "0"


class Certificate(msgspec.Struct, frozen=True):
    """What was shown of a student, and what audits have shown since. ``audits`` is ``learning.audit.State`` as it is kept."""

    id: str
    model: str
    made_ns: int
    made_by: str
    target: Target
    delta: float
    threshold: float
    lapses_after_days: int
    facts: dict[str, Any]
    statement: bytes
    audits: dict[str, Any]
    counted: dict[str, dict[str, int]]


class Student(msgspec.Struct, frozen=True):
    """A student as the state knows it."""

    model: Model
    task: str
    folder: str  # below the data directory
    sha256: str
    form: AnswerForm
    template: Template
    teacher: Teacher
    sticky: bool
    audit_share: float
    training_cost: str
    certificate: Certificate | None
    audited_in_stage: int
    heard_ns: int

    @property
    def place(self) -> tuple[str, str]:
        """Channel, and its name there."""
        return self.model.channel, self.model.model


def add(store: Store, terms: Terms, wanted: Wanted, *, by: str, why: str) -> Student:
    """Register a student and keep a copy of its folder, which the caller has loaded once.

    Raises what ``models.register`` does, and ``ConfigError`` for what is no student.
    """
    if not wanted.model.channel:
        raise ConfigError("a student is served at a channel of kind `student`: give --channel and --model")
    if not wanted.task.strip():
        raise ConfigError("a student is for one task: give --task")
    if not 0 < wanted.audit_share <= 1:
        raise ConfigError(f"an audit share is over 0 and at most 1, not {wanted.audit_share}: such as 0.02")
    try:
        cost_pico = parse_pico(wanted.training_cost)
    except AmountError as error:
        raise ConfigError(f"what training cost is an amount in USD: {error}") from None
    if cost_pico < 0:
        raise ConfigError("what training cost is no negative amount: give 0, or more")
    for other in all_students(store):
        if other.task == wanted.task and other.teacher != wanted.teacher and other.model.stage is not Stage.RETIRED:
            raise ConfigError(
                f"`{other.model.id}` of the task `{wanted.task}` is taught by {'/'.join(other.teacher)}, and audits of a "
                "task ask one teacher: retire it first, or name another task"
            )
    folder = _kept(store.data_dir, wanted)
    made = models.register(store, terms, wanted.model, by=by, why=why)
    row = {
        "model": made.id,
        "task": wanted.task,
        "folder": folder,
        "sha256": wanted.sha256,
        "form": msgspec.to_builtins(wanted.form),
        "template": msgspec.to_builtins(wanted.template),
        "teacher_channel": wanted.teacher.channel,
        "teacher_model": wanted.teacher.model,
        "sticky": wanted.sticky,
        "audit_share": wanted.audit_share,
        "training_cost": wanted.training_cost,
        "certificate": "",
        "audited_in_stage": 0,
        "heard_ns": 0,
    }
    with store.changing() as connection:
        connection.execute(insert(students).values(row))
    return student(store, made.id)


def _kept(data_dir: Path, wanted: Wanted) -> str:
    """Copy the folder to where it is served from; return its name below the data directory."""
    name = f"{FOLDER}/{wanted.model.name}/{wanted.sha256[:16]}"
    place = data_dir / name
    if place.exists():
        return name
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{token_hex(4)}")
    try:
        shutil.copytree(wanted.folder, partial)
        partial.rename(place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not place.exists():  # another command was first
            raise ConfigError(
                f"{wanted.folder} cannot be copied to {place} ({error}): make room, or correct its mode"
            ) from None
    return name


def certify(
    store: Store,
    name: str,
    *,
    target: Target,
    delta: float,
    threshold: float,
    lapses_after_days: int,
    facts: dict[str, Any],
    statement: bytes,
    certificate_id: str,
    by: str,
    why: str,
) -> Student:
    """Give a student a certificate, which takes the place of the one before; audits begin anew. Raises ``StoreError``."""
    from upeti.learning.audit import begin

    one = student(store, name)
    if one.model.stage in (Stage.RETIRED, Stage.QUARANTINED):
        raise ConfigError(f"`{one.model.id}` is {one.model.stage}: it answers nothing, certified or not")
    now_ns = time.time_ns()
    done = act(
        now_ns,
        by,
        "students.certified",
        one.model.id,
        why,
        certificate=certificate_id,
        threshold=threshold,
        delta=delta,
    )
    record_acts(store.data_dir, done)
    row = {
        "id": certificate_id,
        "model": one.model.id,
        "made_ns": now_ns,
        "made_by": by,
        "target": msgspec.to_builtins(target),
        "delta": delta,
        "threshold": threshold,
        "lapses_after_days": lapses_after_days,
        "facts": facts,
        "statement": statement,
        "audits": msgspec.to_builtins(begin(target)),
        "counted": {},
    }
    with store.changing() as connection:
        connection.execute(insert(student_certificates).values(row))
        changes = {"certificate": certificate_id, "heard_ns": now_ns, "audited_in_stage": 0}
        connection.execute(update(students).where(students.c.model == one.model.id).values(**changes))
    return student(store, one.model.id)


def all_students(store: Store) -> list[Student]:
    """Return all students, oldest first."""
    with store.engine.connect() as connection:
        rows = connection.execute(select(students)).mappings().all()
        if not rows:
            return []
        held = [row["certificate"] for row in rows if row["certificate"]]
        query = select(student_certificates).where(student_certificates.c.id.in_(held))
        certificates = {row["id"]: _certificate(row) for row in connection.execute(query).mappings()}
    by_model = {row["model"]: row for row in rows}
    known = [one for one in models.all_models(store) if one.id in by_model]
    return [_student(one, by_model[one.id], certificates) for one in known]


def student(store: Store, name: str) -> Student:
    """Return the student ``NAME@VERSION``, or the newest of ``NAME``. Raises ``StoreError``."""
    found = [one for one in all_students(store) if name in (one.model.id, one.model.name)]
    if not found:
        raise StoreError(f"there is no student `{name}`: `upeti students list` shows them")
    return found[-1]


def certificates_of(store: Store, model: str) -> list[Certificate]:
    """Return all certificates that a student was given, oldest first."""
    query = (
        select(student_certificates)
        .where(student_certificates.c.model == model)
        .order_by(student_certificates.c.made_ns, student_certificates.c.id)
    )
    with store.engine.connect() as connection:
        return [_certificate(row) for row in connection.execute(query).mappings()]


def locked(connection: Connection, certificate: str) -> dict[str, Any]:
    """Return a certificate's row, to be changed in this transaction. Raises ``StoreError``."""
    query = select(student_certificates).where(student_certificates.c.id == certificate)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise StoreError(f"there is no certificate `{certificate}`")
    return dict(row)


def _certificate(row: Any) -> Certificate:
    fields = {name: row[name] for name in Certificate.__struct_fields__}
    return Certificate(**{**fields, "target": msgspec.convert(row["target"], Target)})


def _student(model: Model, row: Any, certificates: dict[str, Certificate]) -> Student:
    return Student(
        model=model,
        task=row["task"],
        folder=row["folder"],
        sha256=row["sha256"],
        form=msgspec.convert(row["form"], AnswerForm),
        template=msgspec.convert(row["template"], Template),
        teacher=Teacher(row["teacher_channel"], row["teacher_model"]),
        sticky=row["sticky"],
        audit_share=row["audit_share"],
        training_cost=row["training_cost"],
        certificate=certificates.get(row["certificate"]),
        audited_in_stage=row["audited_in_stage"],
        heard_ns=row["heard_ns"],
    )
