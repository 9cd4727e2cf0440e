"""The feed's tables: items, users, feedback. Every row belongs to one tenant, and every query names it.

They are the feed's own: nothing of the gateway's state is in them. ``feedback`` is the log that all counters, profiles
and models are folds over; ``sequence`` is the order in which it was written.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA: Final = 1  # raised, with a step in `store._STEPS`, whenever a table that is in use changes

metadata = MetaData()

schema = Table("feed_schema", metadata, Column("version", Integer, primary_key=True))

items = Table(
    "feed_items",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("item", String, primary_key=True),
    Column("is_hidden", Boolean, nullable=False),
    Column("categories", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("comment", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),  # since when it can be shown: its publication
    Column("changed_ns", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),  # of what a model would read; enrichment follows it
    Index("feed_items_changed", "tenant", "changed_ns"),
)

users = Table(
    "feed_users",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("user", String, primary_key=True),
    Column("labels", JSON, nullable=False),
    Column("comment", Text, nullable=False),
    Column("profiling", Boolean, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
)

feedback = Table(
    "feed_feedback",
    metadata,
    # SQLite gives a new number only to an INTEGER key, and never an old one again with AUTOINCREMENT.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("user", String, nullable=False),
    Column("item", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    UniqueConstraint("tenant", "user", "item", "kind", name="feed_feedback_once"),
    sqlite_autoincrement=True,
)
