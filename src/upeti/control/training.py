"""Training a student for a task: a data set by permission, a job somewhere, a student in the registry.

Rules: what is trained on is a data set, so every row went through ``permit``, and what comes with its rights goes along. Rows
for calibration are told by a hash of their text with the task's key: the same ones in every data set of the task. A version
is never trained anew: the next one has the next number.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from upeti.control import consents, datasets, learn_job, models, pairs, students
from upeti.control.datasets import Dataset
from upeti.control.lineage import objections
from upeti.control.models import Model
from upeti.control.store import Store
from upeti.control.students import Student, Teacher
from upeti.control.tasks import WIRE, declared
from upeti.core.errors import ConfigError
from upeti.journal.bodies import Bodies
from upeti.learning.job import OWN_FEATURES, Made, Progress, Source, Train, write_folder
from upeti.learning.job import Wanted as Level
from upeti.learning.tasks import Task
from upeti.rights.manifest import Manifest
from upeti.rights.stage import SERVES
from upeti.rights.terms import Terms

PURPOSE: Final = "classify_internal"
EVALUATE: Final = "evaluate"
_QUOTE_LETTERS: Final = 160


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """How a student is to be trained, and where it will be served."""

    task: str
    channel: str  # of kind `student`
    served_as: str = ""  # "": the task's name, or ``TASK-next`` while another version is let in under that
    level: Level = "auto"
    purpose: str = PURPOSE
    dataset: str = ""  # "": one is built
    labels: str = ""  # a CSV file of one's own labels; no teacher's answer is learned from
    labels_owner: str = ""
    distributed: bool = False
    notices: tuple[str, ...] = ()
    licence: str = ""
    users_monthly: int | None = None
    cost: str = "0"  # what training cost, in USD
    sticky: bool = False
    seed: int = 0


class Trained(NamedTuple):
    """A student that is registered, how training went, and the data set that it rests on."""

    student: Student
    made: Made
    dataset: Dataset


def task_of(store: Store, name: str) -> Task:
    """Return a declared task. Raises ``ConfigError``."""
    found = next((one for one in declared(store) if one.name == name), None)
    if found is None:
        raise ConfigError(
            f"`{name}` is no declared task: `upeti tasks list` shows what is asked, `upeti tasks declare {name}` says whose "
            "answers count and in which form"
        )
    return found


def source_of(task: Task) -> Source:
    """Return which rows of a data set are the task's."""
    key = hashlib.blake2b(task.name.encode(), digest_size=32).digest()
    return Source(template=task.template, form=task.form, channel=task.channel, model=task.model, tag=task.tag, key=key)


def pairs_of(store: Store, task: Task) -> int:
    """Return how many pairs are kept that may be the task's: with its tag, of its teacher, asked by people."""
    found = pairs.find(store, task=task.tag, channel=task.channel)
    return sum(
        one.model == task.model and one.wire == WIRE and one.feature not in OWN_FEATURES and one.task == task.tag
        for one in found
    )


def build(store: Store, terms: Terms, bodies: Bodies, task: Task, purpose: str, *, by: str) -> Dataset:
    """Build the next version of the task's data set. Raises ``ConfigError`` when no row may be in it, with the clause."""
    if not pairs_of(store, task):
        raise ConfigError(
            f"no question and answer of `{task.name}` is kept: `[capture] enabled`, a right to keep and a consent make that they "
            "are; `upeti capture status` says which is missing"
        )
    wanted = datasets.Wanted(name=task.name, purpose=purpose, task=task.tag, channel=task.channel)
    made, manifest = datasets.build(store, terms, bodies, wanted, by=by)
    if not made.rows:
        raise ConfigError(_no_right(task.name, made, manifest))
    return made


def measured_for(store: Store, student: Student) -> str:
    """Return for which purpose a student is measured: its own, or `evaluate` where it learned from no teacher."""
    used = datasets.datasets_of_names(store, student.model.datasets)
    own = all(datasets.manifest_of(one).own_rows == one.rows for one in used)
    return EVALUATE if own else student.model.purpose


def _no_right(name: str, made: Dataset, manifest: Manifest) -> str:
    first = manifest.left_out[0]
    if first.clause:
        quote = first.quote if len(first.quote) <= _QUOTE_LETTERS else f"{first.quote[:_QUOTE_LETTERS]}…"
        return (
            f"nothing may be done for {made.purpose} with the answers of `{name}`: {first.rows:,} rows hang on clause "
            f"{first.clause} ({first.reason}): “{quote}”. `upeti rights explain` shows what would change that; labels of your "
            "own need no right (--labels)"
        )
    return f"nothing may be done for {made.purpose} with the answers of `{name}`: {first.rows:,} rows: {first.why}"


def train(
    store: Store,
    terms: Terms,
    bodies: Bodies,
    wanted: Wanted,
    *,
    by: str,
    why: str,
    ray: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Trained:
    """Train the next version of a task's student and register it.

    Raises ``ConfigError`` and ``JobError``, whose messages name the cure.
    """
    if not by.strip() or not why.strip():
        raise ConfigError("a student has somebody who answers for it: give --by and --why")
    task = task_of(store, wanted.task)
    served_as = wanted.served_as or free_name(models.all_models(store), task.name)
    dataset = _dataset(store, terms, bodies, task, wanted, by)
    _must_be_permitted(store, terms, task, dataset, wanted.purpose)
    version = _next_version(models.all_models(store), task.name)
    job = Train(
        source=source_of(task),
        rows=b"".join(datasets.lines_of(dataset)),
        name=f"{task.name}@{version}",
        level=wanted.level,
        own=bool(wanted.labels),
        alpha=task.alpha,
        seed=wanted.seed,
    )
    made = learn_job.perform(job, ray=ray, progress=progress)
    assert isinstance(made, Made)
    with tempfile.TemporaryDirectory(prefix="upeti-student-") as place:
        student = students.add(
            store,
            terms,
            students.Wanted(
                model=models.Wanted(
                    name=task.name,
                    version=version,
                    purpose=wanted.purpose,
                    datasets=(dataset.id,),
                    distributed=wanted.distributed,
                    channel=wanted.channel,
                    model=served_as,
                    notices=wanted.notices,
                    licence=wanted.licence,
                    users_monthly=wanted.users_monthly,
                ),
                task=task.name,
                form=task.form,
                template=task.template,
                teacher=Teacher(task.channel, task.model),
                folder=write_folder(made.files, Path(place) / "student"),
                sha256=made.sha256,
                sticky=wanted.sticky,
                audit_share=task.audit_share,
                training_cost=wanted.cost,
            ),
            by=by,
            why=why,
        )
    return Trained(student, made, dataset)


def free_name(known: list[Model], task: str) -> str:
    """Return the name under which a new version is served: a route names both, and one of them is always free."""
    taken = {one.model for one in known if one.stage in SERVES}
    names = (task, f"{task}-next")
    found = next((one for one in names if one not in taken), None)
    if found is None:
        raise ConfigError(
            f"versions are let in as {names[0]} and as {names[1]} already: roll one back or retire it, or give --served-as"
        )
    return found


def _next_version(known: list[Model], name: str) -> str:
    numbers = [int(one.version) for one in known if one.name == name and one.version.isdecimal()]
    return str(1 + max(numbers, default=0))


def _dataset(store: Store, terms: Terms, bodies: Bodies, task: Task, wanted: Wanted, by: str) -> Dataset:
    if wanted.dataset:
        if wanted.labels:
            raise ConfigError("give either a data set or labels of your own")
        return datasets.dataset(store, wanted.dataset)
    if not wanted.labels:
        return build(store, terms, bodies, task, wanted.purpose, by=by)
    own = datasets.Wanted(
        name=f"{task.name}-own",
        purpose=wanted.purpose,
        labels=wanted.labels,
        labels_owner=wanted.labels_owner or by,
        own_only=True,
    )
    return datasets.build(store, terms, bodies, own, by=by)[0]


def _must_be_permitted(store: Store, terms: Terms, task: Task, dataset: Dataset, purpose: str) -> None:
    """Say before the work what registering would say after it."""
    against = objections(store, terms, consents.in_force(store), dataset.id, purpose, time.time_ns())
    if against:
        first = against[0]
        raise ConfigError(
            f"`{task.name}` may not be trained for {purpose}: {first.rows:,} rows of {first.dataset} hang on {first.what}: "
            f"{first.why}. `upeti dataset rebuild {dataset.name}` leaves those rows out"
        )
