"""Students in the state without training any: registered on kept pairs that were made for it, certified on made-up rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from support.lineage_side import bodies, capture, consent, terms
from support.tiny_students import FORM, TEMPLATE, tiny_folder
from upeti.control import consents, datasets, models, students
from upeti.control.store import Store
from upeti.control.students import Student, Teacher
from upeti.control.tables_lineage import datasets as datasets_table
from upeti.learning.target import Kind, Target
from upeti.rights.terms import Terms

BY = {"by": "head of product", "why": "the figures are good"}
TARGET = Target(Kind.SYSTEM, 0.05)


def added(
    store: Store,
    place: Path,
    held: Terms | None = None,
    /,
    *,
    version: str = "1",
    name: str = "intents",
    **changes: Any,
) -> Student:
    """Add a student of the task ``intents``; the data set that it rests on is made where there is none."""
    held = terms(place) if held is None else held
    with store.engine.connect() as connection:
        known = connection.execute(select(datasets_table.c.id)).first()
    if known is None:
        if "acme" not in consents.in_force(store):
            consent(store)
        capture(store, 1)
        wanted = datasets.Wanted(name="topics", purpose="classify_internal")
        datasets.build(store, held, bodies(store), wanted, by="legal")
    made = models.Wanted(
        name=name,
        version=version,
        purpose="classify_internal",
        datasets=("topics",),
        channel="own",
        model=changes.pop("served_as", f"{name}-{version}"),
    )
    trained = place / f"trained-{name}-{version}"
    fields = {
        "model": made,
        "task": name,
        "form": FORM,
        "template": TEMPLATE,
        "teacher": Teacher("sim", "paid"),
        "folder": trained,
        "sha256": tiny_folder(trained, changes.pop("mark", "")),
    }
    return students.add(store, held, students.Wanted(**(fields | changes)), **BY)


def certified(store: Store, name: str = "intents", **changes: Any) -> Student:
    """Give a student a certificate whose rows nobody has."""
    one = students.student(store, name)
    number = len(students.certificates_of(store, one.model.id)) + 1
    fields: dict[str, Any] = {
        "target": TARGET,
        "delta": 0.05,
        "threshold": 0.5,
        "lapses_after_days": 7,
        "facts": {},
        "statement": b"{}",
        "certificate_id": f"crt_{one.model.id}_{number}",
    }
    return students.certify(store, one.model.id, **(fields | BY | changes))
