"""Tables of tasks: those that were declared, and how often a teacher agreed with itself."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Integer, String, Table

from upeti.control.tables import metadata

tasks = Table(
    "tasks",
    metadata,
    Column("name", String, primary_key=True),
    Column("tag", String, nullable=False),  # of x-upeti-task; "": its template alone tells its calls
    Column("template_sha256", String(64), nullable=False),
    Column("declared_ns", BigInteger, nullable=False),
    Column("declaration", JSON, nullable=False),  # a learning.tasks.Task
)

agreements = Table(
    "agreements",
    metadata,
    Column("task", String, primary_key=True),  # by name, declared or found
    Column("at_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("route", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("model", String, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("agreed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cost", String, nullable=False),  # decimal text
    Column("currency", String, nullable=False),
)
