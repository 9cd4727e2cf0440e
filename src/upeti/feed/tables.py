"""The feed's tables: items, users, feedback, enrichments. Every row belongs to one tenant, and every query names it.

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
    LargeBinary,
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

enrichments = Table(
    "feed_enrichments",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("item", String, primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("source", String, nullable=False),
    Column("route", String, nullable=False),  # the model name that the worker asked for
    Column("digest", String(64), nullable=False),  # of the text that was read
    Column("prompt_version", String, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("quality", Float),
    Column("safety", String, nullable=False),
    Column("embedding", LargeBinary),  # float32, little end first
    Column("call_id", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("model", String, nullable=False),
    Column("cost", String, nullable=False),  # exact decimal text, or "unknown"
    Column("currency", String, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("feed_enrichments_digest", "tenant", "digest", "prompt_version", "route"),
)

# Every call that the worker was answered: what its versions cost is what these cost.
enrichment_calls = Table(
    "feed_enrichment_calls",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("call_id", String, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("route", String, nullable=False),
    Column("outcome", String, nullable=False),  # read, unreadable, failed
    Column("items", Integer, nullable=False),
    Column("cost", String, nullable=False),
    Column("currency", String, nullable=False),
)

# Tries that gave nothing yet: what they cost goes to the version that comes of them.
enrichment_tries = Table(
    "feed_enrichment_tries",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("item", String, primary_key=True),
    Column("route", String, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("cost", String, nullable=False),
    Column("currency", String, nullable=False),
    Column("error", Text, nullable=False),
)
