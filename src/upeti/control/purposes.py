"""What tenants say they use models for: declared by a person, an act each time, and held against what they do."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from sqlalchemy import delete, insert, select

from upeti.control.store import Store
from upeti.control.tables_conduct import declared_purposes
from upeti.journal.acts import act, record_acts
from upeti.rights.conduct.case import CaseError, named_person, reason_of
from upeti.rights.conduct.thresholds import thresholds


class Declared(msgspec.Struct, frozen=True):
    """One tenant's purpose."""

    tenant: str
    purpose: str
    declared_by: str
    at_ns: int
    why: str


def declare(
    store: Store, data_dir: Path, tenant: str, purpose: str, *, person: str, why: str, at_ns: int | None = None
) -> Declared:
    """Take a tenant's purpose in place of an earlier one. Raises ``CaseError`` for one that is not known."""
    known = thresholds().purposes
    if purpose not in known:
        raise CaseError(f"there is no purpose `{purpose}`; choose from {', '.join(known)}")
    now_ns = time.time_ns() if at_ns is None else at_ns
    made = Declared(tenant, purpose, named_person(person), now_ns, reason_of(why))
    with store.changing() as connection:
        record_acts(data_dir, act(now_ns, made.declared_by, "conduct.declare", tenant, made.why, purpose=purpose))
        connection.execute(delete(declared_purposes).where(declared_purposes.c.tenant == tenant))
        connection.execute(insert(declared_purposes).values(msgspec.structs.asdict(made)))
    return made


def declared(store: Store) -> dict[str, Declared]:
    """Return tenant → what it declared."""
    query = select(declared_purposes).order_by(declared_purposes.c.tenant)
    with store.engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    return {row["tenant"]: Declared(**{name: row[name] for name in Declared.__struct_fields__}) for row in rows}
