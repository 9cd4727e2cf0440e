"""Tables of the learning cycle: looks at calibration rows, runs of the cycle, and when it runs by itself."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Integer, String, Table

from upeti.control.tables import metadata

# Every look at a task's calibration rows spends a part of its delta: those that ended without a certificate, too.
looks = Table(
    "certificate_looks",
    metadata,
    Column("task", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1 on
    Column("at_ns", BigInteger, nullable=False),
    Column("model", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("certificate", String, nullable=False),  # "": none was reached
    Column("needs", Integer),  # calls more that would probably do
    Column("reason", String, nullable=False),
)

runs = Table(
    "learn_runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", String, nullable=False, index=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("by", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("why", String, nullable=False),
    Column("pairs", Integer, nullable=False),  # kept of the task when it began
    Column("dataset", String, nullable=False),
    Column("model", String, nullable=False),
    Column("certificate", String, nullable=False),
    Column("steps", JSON, nullable=False),  # what was done, in words
    Column("seconds", Float, nullable=False),
)

schedules = Table(
    "learn_schedules",
    metadata,
    Column("task", String, primary_key=True),
    Column("every_s", Integer, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("by", String, nullable=False),
    Column("why", String, nullable=False),
)
