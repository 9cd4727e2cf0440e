"""Tables of rights: what people here have said of contracts.

One table for bindings, reviews, grants and denials: they are few, are always read together, and none is ever removed.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, String, Table

from upeti.control.tables import metadata

rights = Table(
    "rights",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # binding, review, grant, denial
    Column("at_ns", BigInteger, nullable=False),  # when it was said
    Column("record", JSON, nullable=False),  # of that kind in rights.terms
)
