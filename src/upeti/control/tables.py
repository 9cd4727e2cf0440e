"""The state's tables: keys, sealed secrets, budgets with their leases, and the worker processes that hold
them.

What money was spent on is in the journal; here is only what must be changed in place and in transactions.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)


class Pico(TypeDecorator[int]):
    """An amount of pico units as decimal digits.

    A 64-bit integer ends at 9.2 million units of pico, and SQLite, which has no exact decimal, turns a larger
    integer or a NUMERIC into a double. Digits are exact at any size and the same in every database. No query
    compares or adds amounts: that is done in Python, on the rows of one transaction.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        return None if value is None else str(int(value))

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("tenant", String, nullable=False),
    Column("project", String, nullable=False),
    Column("feature", String, nullable=False),
    Column("routes", JSON, nullable=False),
    Column("limit_pico", Pico),  # null: no limit
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),  # 0: never
    Column("revoked_ns", BigInteger, nullable=False),  # 0: not revoked
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String, primary_key=True),  # such as "key:ID"
    Column("limit_pico", Pico, nullable=False),
    Column("spent_pico", Pico, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("instance", String, primary_key=True),  # names the journal of one worker process
    Column("worker", BigInteger, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("process", String, nullable=False),  # tells the process from a later one with the same pid
    Column("state", String, nullable=False),  # live, closed
)

leases = Table(
    "leases",
    metadata,
    Column("instance", String, ForeignKey("instances.instance"), primary_key=True),
    Column("budget", String, ForeignKey("budgets.id"), primary_key=True),
    Column("granted_pico", Pico, nullable=False),  # less what was given back
    Column("posted_pico", Pico, nullable=False),  # as the instance last said
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
