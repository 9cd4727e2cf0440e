"""The state's tables: keys, sealed secrets, budgets with their leases and the worker processes that hold them; and
the books: the ledger's batches and postings, usage by day, closed periods, invoices.

What money was spent on is in the journals, of which the books are a fold; here is what must be changed in place and in
transactions, and what all nodes share.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
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
    Column("id", String, primary_key=True),  # such as "key:ID", or "NAME@2026-11" for a window
    Column("limit_pico", Pico, nullable=False),
    Column("spent_pico", Pico, nullable=False),
    Column("unit", String, nullable=False, default="USD"),  # a currency, "calls" or "tokens"
    Column("ends_ns", BigInteger, nullable=False, default=0),  # of the window; 0: never
)

budget_terms = Table(
    "budget_terms",
    metadata,
    Column("name", String, primary_key=True),
    Column("terms", JSON, nullable=False),  # money.budget_terms.BudgetTerms
    Column("changed_ns", BigInteger, nullable=False),
)

freezes = Table(
    "freezes",
    metadata,
    Column("root", String, primary_key=True),  # of the ids of all windows
    Column("budget", String, nullable=False),  # the window in which a cost came above its bound
    Column("at_ns", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("instance", String, primary_key=True),  # names the journal of one worker process
    Column("worker", BigInteger, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("process", String, nullable=False),  # tells the process from a later one with the same pid
    Column("state", String, nullable=False),  # live, closed
    Column("node", String, nullable=False, default=""),  # whose disk has its journal
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

nodes = Table(
    "nodes",
    metadata,
    Column("node", String, primary_key=True),
    Column("token", String, nullable=False),  # of its data directory: no other may take its name
    Column("seen_ns", BigInteger, nullable=False),  # by the database's clock
    Column("address", String, nullable=False),  # of its control port
    Column("posted_ns", BigInteger, nullable=False, default=0),  # all that was settled there before is in the books
)

alerts = Table(
    "alerts",
    metadata,
    Column("budget", String, primary_key=True),
    Column("share", Integer, primary_key=True),  # percent of the limit that was passed; 0: it was frozen
    Column("at_ns", BigInteger, nullable=False),
    Column("spent_pico", Pico, nullable=False),
    Column("limit_pico", Pico, nullable=False),
    Column("reason", String, nullable=False),  # of a freeze
    Column("delivered_ns", BigInteger, nullable=False),  # 0: the webhook has not taken it yet; -1: there was none
)

prices_used = Table(
    "prices_used",
    metadata,
    Column("id", String, primary_key=True),  # hash of the content: a bill can be explained when the file is long gone
    Column("row", JSON, nullable=False),
    Column("first_ns", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("period", String, nullable=False),
    Column("reference", String, nullable=False),
    Column("node", String, nullable=False),
    Column("instance", String, nullable=False),
    Column("segment", BigInteger, nullable=False),
    Column("segment_bytes", BigInteger, nullable=False),
    Column("segment_digest", String, nullable=False),
    Column("document_sha256", String, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Index("batches_by_segment", "instance", "segment"),
)

postings = Table(
    "postings",
    metadata,
    Column("batch", BigInteger, ForeignKey("batches.number"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("account", String, nullable=False),
    Column("amount_pico", Pico, nullable=False),  # debit positive, credit negative
    Column("currency", String, nullable=False),
    Column("day", String(10), nullable=False),
    Column("tenant", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("memo", String, nullable=False),
    Index("postings_by_tenant", "tenant", "day"),
)

usage_days = Table(
    "usage_days",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("dimensions", String, nullable=False),  # canonical JSON of all of a row but its day and amounts
    Column("digest", String(64), nullable=False),  # of the dimensions, which may be longer than an index takes
    Column("tenant", String, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("unmetered", BigInteger, nullable=False),
    Column("meters", String, nullable=False),  # JSON
    Column("cost_pico", Pico, nullable=False),
    UniqueConstraint("day", "digest"),
    Index("usage_by_tenant", "tenant", "day"),
)

periods = Table(
    "periods",
    metadata,
    Column("period", String(7), primary_key=True),  # closed: nothing is posted in it any more
    Column("closed_ns", BigInteger, nullable=False),
    Column("batch", BigInteger, ForeignKey("batches.number"), nullable=False),
)

invoices = Table(
    "invoices",
    metadata,
    Column("number", String, primary_key=True),
    Column("kind", String, nullable=False),  # invoice, supplement, credit_note
    Column("tenant", String, nullable=False),
    Column("period", String(7), nullable=False),
    Column("refers_to", String, nullable=False),  # number of what a supplement or a credit note belongs to
    Column("issued_ns", BigInteger, nullable=False),
    Column("document", String, nullable=False),  # JSON, as it was issued
    Column("sha256", String, nullable=False),  # of the document's text
    Column("batch", BigInteger, ForeignKey("batches.number"), nullable=False),
    Index(
        "invoices_once",
        "tenant",
        "period",
        unique=True,
        sqlite_where=text("kind = 'invoice'"),
        postgresql_where=text("kind = 'invoice'"),
    ),
)
