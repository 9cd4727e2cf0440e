"""The learning cycle of a task: data set → student → certificate → shadow; and why it stopped where it did.

Rules: a run does nothing twice. It begins only when something is new since the last one (calls enough, an alarm, or a student
that is old), and says so otherwise; that is no act and spends nothing. Every other run is an act, as is each of its steps. It
lets a student into the shadow and no further: answering calls is decided by audits or a person. By itself it runs as a
schedule says, in the name of whoever made that.
"""

from __future__ import annotations

import os
import time
from secrets import token_hex
from typing import Final

import msgspec

from upeti.control import certifying, learn_runs, rollout, students, training
from upeti.control.learn_runs import Ended, Ran
from upeti.control.places import Places, TakenError
from upeti.control.store import Store
from upeti.control.training import Wanted, pairs_of, task_of
from upeti.core.errors import ConfigError, UpetiError
from upeti.journal.bodies import Bodies
from upeti.learning.bounds import rows_to_start, spent
from upeti.learning.certificate import LAPSES_AFTER_DAYS, NotCertified
from upeti.learning.job import JobError, Progress
from upeti.learning.tasks import Task
from upeti.learning.template import LEAST
from upeti.rights.stage import SERVES
from upeti.rights.terms import Terms

AGAIN_AFTER_HOURS: Final = 168
_NS: Final = 10**9


class _Stop(Exception):
    def __init__(self, outcome: Ended, why: str) -> None:
        self.outcome = outcome
        self.why = why


class _Run:
    """A run under way: what it has done so far."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.dataset = ""
        self.model = ""
        self.certificate = ""


def run(
    store: Store,
    terms: Terms,
    bodies: Bodies,
    wanted: Wanted,
    *,
    by: str,
    why: str,
    capturing: bool = True,
    again_after_hours: float = AGAIN_AFTER_HOURS,
    lapses_after_days: int = LAPSES_AFTER_DAYS,
    ray: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Ran:
    """Go through the cycle of ``wanted.task`` as far as it goes. Raises ``ConfigError`` for what stops it from beginning."""
    if not by.strip() or not why.strip():
        raise ConfigError("a run has a name and a reason: give --by and --why")
    task = task_of(store, wanted.task)
    lock = _lock(store, task.name)
    began_ns, began_s = time.time_ns(), time.monotonic()
    done = _Run()
    have = pairs_of(store, task)
    try:
        _must_be_new(store, task, have, capturing, again_after_hours, began_ns, own_labels=bool(wanted.labels))
        _work(store, terms, bodies, task, wanted, done, by, why, lapses_after_days, ray, progress)
        ended = _Stop(Ended.SHADOW, f"{done.model} is in the shadow: it says what it would answer, and is audited")
    except _Stop as stop:
        ended = stop
    finally:
        os.close(lock)
    ran = Ran(
        id=f"run_{token_hex(8)}",
        task=task.name,
        at_ns=began_ns,
        by=by,
        outcome=ended.outcome,
        why=ended.why,
        pairs=have,
        dataset=done.dataset,
        model=done.model,
        certificate=done.certificate,
        steps=tuple(done.steps),
        seconds=round(time.monotonic() - began_s, 3),
    )
    if done.steps or ended.outcome is Ended.NOT_PERMITTED:
        learn_runs.keep(store, ran, why)
    return ran


def _work(
    store: Store,
    terms: Terms,
    bodies: Bodies,
    task: Task,
    wanted: Wanted,
    done: _Run,
    by: str,
    why: str,
    lapses_after_days: int,
    ray: str,
    progress: Progress,
) -> None:
    try:
        purpose = training.EVALUATE if wanted.labels else wanted.purpose
        dataset = training.build(store, terms, bodies, task, purpose, by=by)
    except ConfigError as error:
        raise _Stop(Ended.NOT_PERMITTED, str(error)) from None
    done.dataset = dataset.id
    done.steps.append(f"built {dataset.id}: {dataset.rows:,} rows, {dataset.left_out:,} left out")
    given = wanted if wanted.labels else msgspec.structs.replace(wanted, dataset=dataset.id)
    try:
        trained = training.train(store, terms, bodies, given, by=by, why=why, ray=ray, progress=progress)
    except (ConfigError, JobError) as error:
        raise _Stop(Ended.NOT_TRAINED, str(error)) from None
    student, made = trained.student, trained.made
    done.model = student.model.id
    done.steps.append(
        f"trained {student.model.id} ({made.level}) on {made.rows:,} rows: agrees with its teacher on {made.agreement:.1%}, "
        "cross-validated"
    )
    try:
        certified = certifying.certify(
            store,
            task,
            student.model.id,
            dataset,
            by=by,
            why=why,
            lapses_after_days=lapses_after_days,
            ray=ray,
            progress=progress,
        )
    except NotCertified as error:
        needs = error.outcome.needs
        if needs is not None:
            more = certifying.needs_calls(needs)
            raise _Stop(Ended.NEEDS_CALLS, f"needs {more:,} more calls: {error.outcome.reason}") from None
        best = f"cross-validated it could answer {made.coverage:.1%} of the calls at {task.alpha:.2%}"
        raise _Stop(
            Ended.NOT_CERTIFIED, f"a certificate at {1 - task.alpha:.2%} is not reached: {error.outcome.reason}; {best}"
        ) from None
    except (ConfigError, JobError) as error:
        raise _Stop(Ended.NOT_CERTIFIED, str(error)) from None
    certificate = certified.certificate
    held = certified.student.certificate
    done.certificate = held.id if held is not None else ""
    done.steps.append(
        f"certified it on {certificate.n:,} rows that it never saw: it answers {certificate.coverage.estimate:.1%} of the calls, "
        f"from confidence {certificate.threshold:.4g} on"
    )
    try:
        rollout.promote(store, student.model.id, by=by, why=why)
    except UpetiError as error:
        raise _Stop(Ended.NOT_LET_IN, str(error)) from None
    done.steps.append("let it into the shadow")


# -- whether there is anything to do
# -------------------------------------------------------------------------------------------------------------


def _must_be_new(
    store: Store, task: Task, have: int, capturing: bool, again_after_hours: float, now_ns: int, *, own_labels: bool
) -> None:
    """Raise ``_Stop`` when a run would do nothing that the last one has not done."""
    off = "" if capturing else "; `[capture] enabled` is false: nothing more is kept"
    if have < LEAST:
        raise _Stop(Ended.NEEDS_CALLS, f"needs {LEAST - have:,} more calls: {have:,} are kept of it{off}")
    first = certifying.needs_calls(rows_to_start(task.alpha, spent(task.delta, certifying.next_look(store, task.name))))
    if have < first:
        what = f"{have:,} are kept, and a certificate at {1 - task.alpha:.2%} can begin with {first:,}"
        raise _Stop(Ended.NEEDS_CALLS, f"needs {first - have:,} more calls: {what}{off}")
    last = learn_runs.last_run(store, task.name)
    if last is None:
        return
    new = have - last.pairs
    taken_back = learn_runs.taken_back_ns(store, task.name)
    if taken_back > last.at_ns and new > 0:
        return
    current = [one for one in students.all_students(store) if one.task == task.name and one.model.stage in SERVES]
    if current and taken_back <= last.at_ns:
        newest = current[-1].model
        due_ns = newest.registered_ns + int(again_after_hours * 3600 * _NS)
        if due_ns > now_ns:
            raise _Stop(
                Ended.NOTHING_NEW,
                f"{newest.id} is {newest.stage}; the next version is trained in {(due_ns - now_ns) / _NS / 3600:,.0f} hours, or "
                "after it is taken back",
            )
    if last.outcome is Ended.NOT_PERMITTED or own_labels:
        return  # a right may have come, labels may be others
    if new <= 0:
        raise _Stop(Ended.NOTHING_NEW, f"no call was kept since the last run, which ended: {last.why}{off}")
    lacking = certifying.lacking(store, task.name)
    if lacking is not None and new < lacking:
        raise _Stop(
            Ended.NEEDS_CALLS,
            f"needs {lacking - new:,} more calls: {new:,} came since a certificate was not reached{off}",
        )


def _lock(store: Store, task: str) -> int:
    places = Places(store.data_dir)
    places.make()
    try:
        return places.lock(f"learn-{task}")
    except TakenError:
        raise ConfigError(f"the cycle of `{task}` runs already: wait for it, `upeti learn status` shows it") from None
