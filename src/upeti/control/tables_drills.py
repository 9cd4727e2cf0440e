"""The state's tables of drills and of the exit plan."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Integer, LargeBinary, String, Table

from upeti.control.tables import metadata

drills = Table(
    "drills",
    metadata,
    Column("id", String, primary_key=True),
    Column("mode", String, nullable=False),  # shadow, live
    Column("channel", String, nullable=False),
    Column("node", String, nullable=False),  # that begun it, reads its own journals and makes the report
    Column("state", String, nullable=False),  # a value of outlook.drill_life.State
    Column("by", String, nullable=False),
    Column("why", String, nullable=False),
    Column("from_ns", BigInteger, nullable=False),  # of the calls that are looked at
    Column("until_ns", BigInteger, nullable=False),  # a live one ends then at the latest
    Column("share_millionths", Integer, nullable=False),
    Column("kind", String, nullable=False),  # a value of gateway.faults.Kind
    Column("signal", String, nullable=False),  # whose error is answered
    Column("fault", JSON, nullable=False),  # what a worker puts in the channel's place; {}: nothing
    Column("abort_below", Integer, nullable=False),  # percent that must survive
    Column("ended_ns", BigInteger, nullable=False),  # 0: not yet
    Column("ended_by", String, nullable=False),  # a person, or a rule
    Column("ended_why", String, nullable=False),
    Column("summary", JSON, nullable=False),  # of the report; {}: there is none yet
    Column("envelope", LargeBinary, nullable=False),  # the signed report
)

alternatives = Table(
    "alternatives",
    metadata,
    Column("id", String, primary_key=True),
    Column("route", String, nullable=False),
    Column("alternative", String, nullable=False),  # where the route's calls could go
    Column("months", String, nullable=False),  # to leave, decimal text; "": nobody has said
    Column("cost", String, nullable=False),  # of leaving, decimal text
    Column("currency", String, nullable=False),
    Column("owner", String, nullable=False),  # who would do it
    Column("by", String, nullable=False),
    Column("why", String, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("removed_ns", BigInteger, nullable=False),  # 0: it stands
)
