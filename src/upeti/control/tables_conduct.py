"""The state's tables of conduct: cases, what happened in them, and what tenants say they use models for."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Integer, String, Table

from upeti.control.tables import metadata

cases = Table(
    "cases",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenants", JSON, nullable=False),  # sorted; one, but for a cluster of keys over several
    Column("kind", String, nullable=False),  # conduct, abuse_block, …
    Column("state", String, nullable=False),  # rights.conduct.case.State
    Column("families", JSON, nullable=False),  # of all evidence so far, sorted
    Column("opened_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),  # of the state
    Column("until_ns", BigInteger, nullable=False),  # when its clock ends the state; 0: no clock
    Column("suspended_ns", BigInteger, nullable=False),  # since when it is not served; 0: it is
    Column("suspended_by", String, nullable=False),  # the person; "": a rule, or nobody
    Column("bundle_events", Integer, nullable=False),  # the suspension stands on the evidence of so many events
    Column("bundle_sha256", String, nullable=False),
)

case_events = Table(
    "case_events",
    metadata,
    Column("case_id", String, ForeignKey("cases.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("state", String, nullable=False),  # after it
    Column("actor", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("act", String, nullable=False),  # its id in the journal of acts
    Column("evidence", String, nullable=False),  # JSON; "": none
)

declared_purposes = Table(
    "declared_purposes",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("declared_by", String, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("why", String, nullable=False),
)
