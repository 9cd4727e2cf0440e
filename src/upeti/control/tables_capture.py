"""Tables of capture: who has consented, what was kept, and what was left out."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, String, Table

from upeti.control.tables import metadata

consents = Table(
    "consents",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("purposes", JSON, nullable=False),  # what its pairs may be used for, besides being kept
    Column("features", JSON, nullable=False),  # []: all
    Column("evidence_sha256", String, nullable=False),
    Column("evidence_name", String, nullable=False),
    Column("given_by", String, nullable=False),  # who recorded it
    Column("why", String, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("withdrawn_ns", BigInteger, nullable=False),  # 0: it holds
    Column("withdrawn_by", String, nullable=False),
    Column("withdrawn_why", String, nullable=False),
)

tenant_salts = Table(
    "tenant_salts",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("salt", LargeBinary, nullable=False),  # without it no digest of the tenant's can be tried out
)

pairs = Table(
    "pairs",
    metadata,
    Column("pair_id", String, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("call_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("project", String, nullable=False),
    Column("key", String, nullable=False),
    Column("feature", String, nullable=False),
    Column("task", String, nullable=False),
    Column("user_digest", String, nullable=False),
    Column("route", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("model", String, nullable=False),
    Column("wire", String, nullable=False),
    Column("contract", String, nullable=False),
    Column("clause", String, nullable=False),
    Column("grant", String, nullable=False),
    Column("consent", String, nullable=False),
    Column("redactions", JSON, nullable=False),
    Column("request_digest", String, nullable=False),
    Column("answer_digest", String, nullable=False),
    Column("request_bytes", BigInteger, nullable=False),
    Column("answer_bytes", BigInteger, nullable=False),
    Column("erased_ns", BigInteger, nullable=False),  # 0: its bodies are there
    Index("pairs_by_tenant", "tenant", "at_ns"),
    Index("pairs_by_task", "task", "at_ns"),
    Index("pairs_by_call", "call_id"),
    Index("pairs_by_request", "request_digest"),
    Index("pairs_by_answer", "answer_digest"),
)

left_out = Table(
    "left_out",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tenant", String, primary_key=True),
    Column("channel", String, primary_key=True),
    Column("reason", String, primary_key=True),
    Column("exchanges", Integer, nullable=False),
)
