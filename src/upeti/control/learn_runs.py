"""Runs of the learning cycle and when it runs by itself: what is kept of them.

Rules: a run that did something is an act and a row; a schedule is an act and a row, in the name of whoever made it. What is due
follows from these and from what became of students. No numerical library is needed for it: the keeper looks here.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, insert, select

from upeti.control import students
from upeti.control.store import Store
from upeti.control.tables_learning import runs, schedules
from upeti.control.tasks import declared
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, read_acts, record_acts
from upeti.rights.stage import ALARM, ROLLED_BACK

EVERY_MIN_S: Final = 3600
_NS: Final = 10**9
_TAKEN_BACK: Final = frozenset({f"models.{ALARM}", f"models.{ROLLED_BACK}"})


class Ended(StrEnum):
    SHADOW = "shadow"  # a certified student is let into the shadow
    NOTHING_NEW = "nothing_new"
    NEEDS_CALLS = "needs_calls"
    NOT_PERMITTED = "not_permitted"
    NOT_TRAINED = "not_trained"
    NOT_CERTIFIED = "not_certified"
    NOT_LET_IN = "not_let_in"


MEANS: Final = {
    Ended.SHADOW: "a student is trained, certified and let into the shadow",
    Ended.NOTHING_NEW: "nothing is new since the last run; nothing was done",
    Ended.NEEDS_CALLS: "more calls have to be kept first; how many is said",
    Ended.NOT_PERMITTED: "nothing may be trained on these answers; the clause is named",
    Ended.NOT_TRAINED: "the rows give no student; why is said",
    Ended.NOT_CERTIFIED: "a student is trained, and its rows do not show the promise",
    Ended.NOT_LET_IN: "a student is certified, and something keeps it out of the shadow",
}


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did, and why it stopped."""

    id: str
    task: str
    at_ns: int
    by: str
    outcome: Ended
    why: str
    pairs: int
    dataset: str = ""
    model: str = ""
    certificate: str = ""
    steps: tuple[str, ...] = ()
    seconds: float = 0.0


class Schedule(msgspec.Struct, frozen=True):
    """That a task's cycle runs by itself."""

    task: str
    every_s: int
    since_ns: int
    by: str
    why: str


def keep(store: Store, ran: Ran, why: str) -> None:
    detail = {"outcome": ran.outcome, "dataset": ran.dataset, "model": ran.model, "certificate": ran.certificate}
    record_acts(store.data_dir, act(time.time_ns(), ran.by, "learning.ran", ran.task, why, **detail))
    with store.writing() as connection:
        connection.execute(insert(runs).values(msgspec.to_builtins(ran)))


def all_runs(store: Store, task: str = "", count: int = 50) -> list[Ran]:
    """Return runs that did something, the newest first."""
    query = select(runs).order_by(runs.c.at_ns.desc()).limit(count)
    if task:
        query = query.where(runs.c.task == task)
    with store.engine.connect() as connection:
        return [_ran(row) for row in connection.execute(query).mappings()]


def last_run(store: Store, task: str) -> Ran | None:
    """Return the newest run that did something; None without one."""
    return next(iter(all_runs(store, task, 1)), None)


def _ran(row: Any) -> Ran:
    return msgspec.convert({name: row[name] for name in Ran.__struct_fields__}, Ran)


def schedule(store: Store, task: str, every_s: int, *, by: str, why: str) -> Schedule:
    """Have a task's cycle run by itself. Raises ``ConfigError``."""
    if not by.strip() or not why.strip():
        raise ConfigError("a schedule has a name and a reason: give --by and --why")
    if every_s < EVERY_MIN_S:
        raise ConfigError("a cycle runs every hour at most: --every 1h, or 7d")
    if all(one.name != task for one in declared(store)):
        raise ConfigError(f"`{task}` is no declared task: `upeti tasks list` shows them")
    made = Schedule(task, every_s, time.time_ns(), by, why)
    record_acts(store.data_dir, act(made.since_ns, by, "learning.scheduled", task, why, every_s=every_s))
    with store.writing() as connection:
        connection.execute(delete(schedules).where(schedules.c.task == task))
        connection.execute(insert(schedules).values(msgspec.structs.asdict(made)))
    return made


def unschedule(store: Store, task: str, *, by: str, why: str) -> None:
    """End a schedule. Raises ``ConfigError``."""
    if not by.strip() or not why.strip():
        raise ConfigError("this has a name and a reason: give --by and --why")
    if all(one.task != task for one in all_schedules(store)):
        raise ConfigError(f"the cycle of `{task}` has no schedule: `upeti learn status` shows those that have")
    record_acts(store.data_dir, act(time.time_ns(), by, "learning.unscheduled", task, why))
    with store.writing() as connection:
        connection.execute(delete(schedules).where(schedules.c.task == task))


def all_schedules(store: Store) -> list[Schedule]:
    """Return all schedules, by task."""
    with store.engine.connect() as connection:
        rows = connection.execute(select(schedules).order_by(schedules.c.task)).mappings()
        return [Schedule(**row) for row in rows]


def taken_back_ns(store: Store, task: str) -> int:
    """Return when a student of the task was last rolled back, by an alarm or by hand; 0: never."""
    mine = {one.model.id for one in students.all_students(store) if one.task == task}
    times = (one.at_ns for one in read_acts(store.data_dir) if one.subject in mine and one.kind in _TAKEN_BACK)
    return max(times, default=0)


def due(store: Store, retrain_hours: int, now_ns: int) -> list[Schedule]:
    """Return what is to run now: of declared tasks, those whose time is over, and those whose student was taken back since.

    ``retrain_hours`` is for tasks without a schedule; 0: they never run by themselves.
    """
    mine = {one.task: one for one in all_schedules(store)}
    with store.engine.connect() as connection:
        query = select(runs.c.task, func.max(runs.c.at_ns)).group_by(runs.c.task)
        last = {str(task): int(at_ns) for task, at_ns in connection.execute(query)}
    found = []
    for task in declared(store):
        one = mine.get(task.name)
        if one is None and retrain_hours:
            one = Schedule(task.name, retrain_hours * 3600, task.declared_ns, task.by, "[learning] retrain_hours")
        if one is None:
            continue
        since_ns = max(last.get(task.name, 0), one.since_ns)
        if now_ns >= since_ns + one.every_s * _NS or taken_back_ns(store, task.name) > since_ns:
            found.append(one)
    return found
