"""The state's tables of latches and incidents."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table

from upeti.control.tables import metadata

incidents = Table(
    "incidents",
    metadata,
    Column("id", String, primary_key=True),
    Column("scope", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("opened_ns", BigInteger, nullable=False),
    Column("meaning", String, nullable=False),
    Column("signal", String, nullable=False),  # id of the row, "" when a probe or a person decided
    Column("status", Integer, nullable=False),
    Column("why", String, nullable=False),
    Column("sha256", String, nullable=False),  # of the body that was answered
    Column("excerpt", String, nullable=False),  # of it, scrubbed
    Column("calls", BigInteger, nullable=False),  # that met it
    Column("probes", BigInteger, nullable=False),
    Column("recovered_ns", BigInteger, nullable=False),  # 0: not yet
    Column("recovered_by", String, nullable=False),  # a person, or rule:probe
)

latches = Table(
    "latches",
    metadata,
    Column("scope", String, primary_key=True),  # channel, key, model
    Column("channel", String, primary_key=True),
    Column("detail", String, primary_key=True),  # the key's fingerprint, the model's name
    Column("state", String, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("incident", String, ForeignKey("incidents.id"), nullable=False),
    Column("meaning", String, nullable=False),
    Column("why", String, nullable=False),
    Column("by", String, nullable=False),  # the person who latched it
    Column("wire", String, nullable=False),  # what has worked and is probed with
    Column("model", String, nullable=False),
    Column("probes", Integer, nullable=False),  # that failed in a row: pauses grow with them
    Column("next_probe_ns", BigInteger, nullable=False),  # 0: none is due by itself
)
