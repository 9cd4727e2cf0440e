"""Consents: which tenant agreed that its questions and answers are kept, and what for.

Rules: no consent, nothing kept. A consent names a person and a document; it is an act before it takes effect, reaches
workers as any change does, and is never edited: a new one takes the place of the one before. It is given for purposes;
what a pair may be used for is what its consent and its contract both allow.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec
from sqlalchemy import RowMapping, insert, select, update

from upeti.control.rights import Document, keep_evidence
from upeti.control.store import Store, StoreError
from upeti.control.tables_capture import consents as table
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, record_acts
from upeti.rights.terms import PURPOSES, SERVE


class Consent(msgspec.Struct, frozen=True):
    """One tenant's consent."""

    id: str
    tenant: str
    purposes: tuple[str, ...]  # besides being kept
    features: tuple[str, ...]  # (): all
    evidence_sha256: str
    evidence_name: str
    given_by: str  # who recorded it
    why: str
    at_ns: int
    withdrawn_ns: int = 0
    withdrawn_by: str = ""
    withdrawn_why: str = ""

    def covers(self, purpose: str) -> bool:
        """Whether it holds now, and was given for ``purpose``."""
        return not self.withdrawn_ns and (purpose == "store" or purpose in self.purposes)


def give(
    store: Store,
    tenant: str,
    *,
    purposes: tuple[str, ...],
    features: tuple[str, ...] = (),
    evidence: Document,
    by: str,
    why: str,
) -> Consent:
    """Record that ``tenant`` has consented, in place of what it said before. Raises ``ConfigError``."""
    _signed(by, why)
    for purpose in purposes:
        if purpose not in PURPOSES - {SERVE}:
            known = ", ".join(sorted(PURPOSES - {SERVE}))
            raise ConfigError(f"`{purpose}` is no purpose of what is kept; there are: {known}")
    now_ns = time.time_ns()
    made = Consent(
        id=f"con_{secrets.token_hex(8)}",
        tenant=tenant,
        purposes=tuple(sorted({*purposes, "store"})),
        features=tuple(sorted(features)),
        evidence_sha256=keep_evidence(store.data_dir, evidence),
        evidence_name=evidence.name,
        given_by=by,
        why=why,
        at_ns=now_ns,
    )
    fields: dict[str, Any] = msgspec.to_builtins(made)
    detail = {name: fields[name] for name in ("tenant", "purposes", "features", "evidence_sha256")}
    record_acts(store.data_dir, act(now_ns, by, "capture.consented", made.id, why, **detail))
    with store.changing() as connection:
        connection.execute(_ended(tenant, now_ns, by, f"replaced by {made.id}"))
        connection.execute(insert(table).values(fields))
    return made


def withdraw(store: Store, tenant: str, *, by: str, why: str) -> Consent:
    """End a tenant's consent. Raises ``StoreError`` when it has none, ``ConfigError``."""
    _signed(by, why)
    now_ns = time.time_ns()
    with store.changing() as connection:
        found = connection.execute(select(table).where(_holds(tenant))).mappings().first()
        if found is None:
            raise StoreError(f"the tenant `{tenant}` has no consent in force: `upeti capture status` shows who has")
        record_acts(store.data_dir, act(now_ns, by, "capture.withdrawn", found["id"], why, tenant=tenant))
        connection.execute(_ended(tenant, now_ns, by, why))
    changes = {"withdrawn_ns": now_ns, "withdrawn_by": by, "withdrawn_why": why}
    return msgspec.structs.replace(_consent(found), **changes)


def all_consents(store: Store) -> list[Consent]:
    """Return every consent there was, oldest first."""
    with store.engine.connect() as connection:
        rows = connection.execute(select(table).order_by(table.c.at_ns, table.c.id)).mappings().all()
    return [_consent(row) for row in rows]


def in_force(store: Store) -> dict[str, Consent]:
    """Return tenant → its consent."""
    return {one.tenant: one for one in all_consents(store) if not one.withdrawn_ns}


def _holds(tenant: str) -> Any:
    return (table.c.tenant == tenant) & (table.c.withdrawn_ns == 0)


def _ended(tenant: str, at_ns: int, by: str, why: str) -> Any:
    values = {"withdrawn_ns": at_ns, "withdrawn_by": by, "withdrawn_why": why}
    return update(table).where(_holds(tenant)).values(**values)


def _consent(row: RowMapping) -> Consent:
    return msgspec.convert({name: row[name] for name in Consent.__struct_fields__}, Consent)


def _signed(by: str, why: str) -> None:
    if not by.strip() or not why.strip():
        raise ConfigError("a consent has a name and a reason: give --by and --why")
