"""Certifying a student: the rows left out for it are measured, a look is counted, what they show is signed and kept.

Rules: every look at a task's rows spends a part of its delta, so it is counted before anything is seen, and stays counted
when no certificate comes of it. Rows count only when the teacher answered whatever was asked: while a student answers, what
is kept of the teacher is a sample of what the student was *not* sure of, and calls of such times are left out. So are those
from before the task's last alarm: they speak of other traffic. A certificate and its rows are kept side by side, so that
``upeti certificate verify`` computes it again.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import func, insert, select, update

from upeti.control import datasets, students
from upeti.control.datasets import Dataset
from upeti.control.learn_job import perform
from upeti.control.signing import sign
from upeti.control.store import Store
from upeti.control.students import Student
from upeti.control.tables_learning import looks
from upeti.control.tasks import agreements_of
from upeti.control.training import source_of
from upeti.core.errors import ConfigError
from upeti.core.events import ActDone
from upeti.journal.acts import read_acts
from upeti.learning.calibration import decode
from upeti.learning.certificate import (
    LAPSES_AFTER_DAYS,
    PAYLOAD_TYPE,
    Certificate,
    Facts,
    NotCertified,
    Stability,
    issue,
    payload,
)
from upeti.learning.job import Measure, Measured, Progress, Spans
from upeti.learning.target import Kind, Target
from upeti.learning.tasks import Task
from upeti.learning.threshold import Path as Thresholds
from upeti.learning.threshold import answer_path, class_limits
from upeti.rights.stage import ALARM, Stage, answers

FOLDER: Final = "certificates"  # in the data directory
_MODELS: Final = "models."
_SLACK_NS: Final = 2 * 10**9  # a pair's time is known to the second; workers follow a stage within one
_FOR_EVER_NS: Final = 2**63 - 1


class Certified(NamedTuple):
    """A student with its new certificate, and where that is kept with its rows."""

    student: Student
    certificate: Certificate
    file: Path
    rows_file: Path


def certify(
    store: Store,
    task: Task,
    name: str,
    dataset: Dataset,
    *,
    by: str,
    why: str,
    target: Kind | None = None,
    alpha: float | None = None,
    lapses_after_days: int = LAPSES_AFTER_DAYS,
    ray: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Certified:
    """Certify a student on the rows of ``dataset`` that are kept for it. The target is the task's, where none is given.

    Raises ``NotCertified``, which says what is lacking, ``ConfigError``, ``JobError``.
    """
    student = students.student(store, name)
    number = count_look(store, task.name, student.model.id, dataset.id)
    measured = measure(store, task, student, dataset, ray=ray, progress=progress)
    rows = decode(measured.rows)
    chosen, path = _target(task, target or task.target, alpha or task.alpha, measured, len(rows), number)
    facts = Facts(
        task=task.name,
        student_sha256=student.sha256,
        template_sha256=student.template.digest,
        labels_sha256=measured.labels_sha256,
        teacher_channel=student.teacher.channel,
        teacher_model=student.teacher.model,
        teacher_version=" and ".join(measured.versions) or student.teacher.model,
        target=chosen,
    )
    try:
        made = issue(
            facts,
            rows,
            issuer=by,
            valid_from=datetime.datetime.now(datetime.UTC),
            delta=task.delta,
            look=number,
            path=path,
            lapses_after_days=lapses_after_days,
            stability=_stability(store, task),
        )
    except NotCertified as error:
        _looked(store, task.name, number, len(rows), "", error.outcome.needs, error.outcome.reason)
        raise
    identity = f"crt_{token_hex(8)}"
    statement = sign(store.data_dir, PAYLOAD_TYPE, payload(made))
    file, rows_file = _keep(store.data_dir / FOLDER, identity, statement, measured.rows)
    _looked(store, task.name, number, len(rows), identity, None, "")
    after = students.certify(
        store,
        student.model.id,
        target=chosen,
        delta=task.delta,
        threshold=made.threshold,
        lapses_after_days=lapses_after_days,
        facts=msgspec.to_builtins(facts),
        statement=statement,
        certificate_id=identity,
        by=by,
        why=why,
    )
    return Certified(after, made, file, rows_file)


def measure(
    store: Store,
    task: Task,
    student: Student,
    dataset: Dataset,
    *,
    ray: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Measured:
    """Ask a student what it says of the rows that count. Raises ``JobError``, ``ConfigError``."""
    folder = store.data_dir / student.folder
    job = Measure(
        source=source_of(task),
        rows=b"".join(datasets.lines_of(dataset)),
        files={path.name: path.read_bytes() for path in sorted(folder.iterdir())},
        spans=unfair_spans(store, task.name),
    )
    measured = perform(job, ray=ray, progress=progress)
    assert isinstance(measured, Measured)
    return measured


def _target(
    task: Task, kind: Kind, alpha: float, measured: Measured, rows: int, look: int
) -> tuple[Target, Thresholds | None]:
    """Return the target and the thresholds of kind *answer*: both from what was known before the rows were looked at."""
    from upeti.learning.bounds import spent

    delta = spent(task.delta, look)
    if kind is Kind.CLASS:
        known = (values for values, count in measured.answers for _ in range(count))
        classes = class_limits(known, rows, alpha, delta)
        if not classes:
            raise ConfigError(
                f"no class has rows enough to promise something of it, {rows:,} are kept to certify on: keep more calls, or "
                "choose --target system"
            )
        return Target(kind, alpha, classes), None
    if kind is Kind.ANSWER:
        path = answer_path(measured.confidences, rows, alpha, delta)
        return Target(kind, alpha), path or Thresholds((0.0,))
    return Target(kind, alpha), None


def _stability(store: Store, task: Task) -> Stability | None:
    mine = [one for one in agreements_of(store, task.name) if (one.channel, one.model) == (task.channel, task.model)]
    return Stability(mine[-1].agreed, mine[-1].asked) if mine and mine[-1].asked else None


def _keep(folder: Path, identity: str, statement: bytes, rows: bytes) -> tuple[Path, Path]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file, rows_file = folder / f"{identity}.json", folder / f"{identity}.rows.jsonl"
    for path, data in ((rows_file, rows), (file, statement)):
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    return file, rows_file


# -- looks
# -------------------------------------------------------------------------------------------------------------


def count_look(store: Store, task: str, model: str, dataset: str) -> int:
    """Count a look before it is taken, and return its number, from 1 on."""
    with store.writing() as connection:
        query = select(func.max(looks.c.number)).where(looks.c.task == task)
        number = 1 + int(connection.execute(query).scalar() or 0)
        row = {"task": task, "number": number, "at_ns": time.time_ns(), "model": model, "dataset": dataset, "rows": 0}
        connection.execute(insert(looks).values(row | {"certificate": "", "needs": None, "reason": "broken off"}))
    return number


def _looked(store: Store, task: str, number: int, rows: int, certificate: str, needs: int | None, reason: str) -> None:
    mine = (looks.c.task == task) & (looks.c.number == number)
    with store.writing() as connection:
        values = {"rows": rows, "certificate": certificate, "needs": needs, "reason": reason}
        connection.execute(update(looks).where(mine).values(**values))


def next_look(store: Store, task: str) -> int:
    """Return which look at the task's rows the next one is."""
    with store.engine.connect() as connection:
        return 1 + int(connection.execute(select(func.max(looks.c.number)).where(looks.c.task == task)).scalar() or 0)


def lacking(store: Store, task: str) -> int | None:
    """Return how many calls the last look said were missing; None when it did not, or a certificate came of it."""
    query = select(looks.c.needs).where(looks.c.task == task).order_by(looks.c.number.desc()).limit(1)
    with store.engine.connect() as connection:
        needs = connection.execute(query).scalar()
    return None if needs is None else needs_calls(int(needs))


def needs_calls(rows: int) -> int:
    """Return how many calls give so many rows more to certify on: every other one is drawn for it."""
    from upeti.learning.examples import CALIBRATION_SHARE

    return max(1, round(rows / CALIBRATION_SHARE))


# -- which calls are a fair sample
# -------------------------------------------------------------------------------------------------------------


def unfair_spans(store: Store, task: str) -> Spans:
    """Return the times [from, to) in ns whose calls do not count: before the last alarm, and while a student answered."""
    mine = {one.model.id for one in students.all_students(store) if one.task == task}
    moves = (one for one in read_acts(store.data_dir) if one.subject in mine and one.kind.startswith(_MODELS))
    return spans_of(moves)


def spans_of(moves: Iterable[ActDone]) -> Spans:
    """Return those spans of the acts about a task's students, oldest first."""
    found: list[tuple[int, int]] = []
    since: dict[str, int] = {}
    last_alarm = 0
    for one, stage in _stages(moves):
        if answers(stage):
            since.setdefault(one.subject, one.at_ns)
        elif one.subject in since:
            found.append((since.pop(one.subject) - _SLACK_NS, one.at_ns + _SLACK_NS))
        if one.kind == f"{_MODELS}{ALARM}":
            last_alarm = one.at_ns
    found += [(begun - _SLACK_NS, _FOR_EVER_NS) for begun in since.values()]
    if last_alarm:
        found.append((0, last_alarm + _SLACK_NS))
    return tuple(found)


def _stages(moves: Iterable[ActDone]) -> Iterator[tuple[ActDone, Stage]]:
    class Detail(msgspec.Struct):
        stage: Stage = Stage.REGISTERED

    for one in moves:
        yield one, msgspec.json.decode(one.detail, type=Detail).stage
