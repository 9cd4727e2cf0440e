"""The books: batches of postings and usage by day, in the state that all nodes share.

Rules: a batch, its postings and the usage that it stands for are one transaction; batches are numbered and chained one
after the other, whoever appends them. Nothing is posted in a period that is closed: what comes late belongs to the
first open one. The same segment is posted once.
"""

from __future__ import annotations

import datetime
import gc
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, String, bindparam, insert, select, type_coerce, update

from upeti.control import tables
from upeti.control.store import Store
from upeti.money.ledger import GENESIS, Account, Batch, BatchKind, Posting, sealed
from upeti.money.price import Price
from upeti.money.usage import UsageRow

_COUNTS: Final = ("calls", "attempts", "unmetered", "cost_pico")
_SUMS: Final = (*_COUNTS, "meters")
_DIMENSIONS: Final = tuple(name for name in UsageRow.__struct_fields__ if name not in ("day", *_SUMS))
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode_meters: Final = msgspec.json.Decoder(dict[str, int]).decode


class Books:
    """The ledger and the usage of one state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def append(self, batch: Batch, usage: Iterable[UsageRow] = ()) -> Batch | None:
        """Number, chain and keep ``batch`` with the usage that it stands for; None when its segment is posted already.

        Its period is moved on to the first open one. Raises ``LedgerError`` when it does not balance.
        """
        with self._store.writing() as connection:
            return append_in(connection, batch, usage)

    def usage(
        self, first_day: datetime.date | None = None, last_day: datetime.date | None = None, tenant: str | None = None
    ) -> list[UsageRow]:
        """Return the rows of some days, both included, by day."""
        with self._store.engine.connect() as connection:
            return usage_in(connection, first_day, last_day, tenant)

    def batches(self) -> list[Batch]:
        """Return every batch with its postings, in order."""
        with self._store.engine.connect() as connection:
            return batches_in(connection)

    def price(self, price_id: str) -> Price | None:
        """Return a price that was ever served with, whatever the price files say now."""
        query = select(tables.prices_used.c.row).where(tables.prices_used.c.id == price_id)
        with self._store.engine.connect() as connection:
            row = connection.execute(query).scalar_one_or_none()
        return None if row is None else msgspec.convert(row, Price)

    def keep_prices(self, prices: Sequence[Price], at_ns: int) -> None:
        """Remember prices that calls are served with from now on."""
        table = tables.prices_used
        with self._store.writing() as connection:
            known = set(connection.execute(select(table.c.id)).scalars())
            fresh = {price.id: price for price in prices if price.id not in known}
            rows = [{"id": name, "row": msgspec.to_builtins(price), "first_ns": at_ns} for name, price in fresh.items()]
            if rows:
                connection.execute(insert(table), rows)

    def closed_periods(self) -> list[str]:
        """Return closed periods such as "2026-10", oldest first."""
        query = select(tables.periods.c.period).order_by(tables.periods.c.period)
        with self._store.engine.connect() as connection:
            return list(connection.execute(query).scalars())


def append_in(connection: Connection, batch: Batch, usage: Iterable[UsageRow] = ()) -> Batch | None:
    """``Books.append`` within a transaction of ``Store.writing``, for what must happen together with it."""
    table = tables.batches
    if batch.instance:
        same = (table.c.instance == batch.instance) & (table.c.segment == batch.segment)
        if connection.execute(select(table.c.number).where(same)).first() is not None:
            return None
    last = connection.execute(select(table.c.number, table.c.hash).order_by(table.c.number.desc()).limit(1)).first()
    number, previous = (last.number + 1, last.hash) if last is not None else (1, GENESIS)
    closed = connection.execute(select(tables.periods.c.period).order_by(tables.periods.c.period.desc())).scalars()
    batch = sealed(
        msgspec.structs.replace(batch, number=number, period=_open_period(batch.period, closed.first())), previous
    )
    row = msgspec.structs.asdict(batch)
    connection.execute(insert(table).values({name: value for name, value in row.items() if name != "postings"}))
    lines = [
        {**msgspec.structs.asdict(posting), "day": posting.day.isoformat(), "batch": number, "line": line}
        for line, posting in enumerate(batch.postings)
    ]
    if lines:
        connection.execute(insert(tables.postings), lines)
    _add_usage(connection, usage)
    return batch


def usage_in(
    connection: Connection,
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
    tenant: str | None = None,
) -> list[UsageRow]:
    """``Books.usage`` within a transaction, for what must be of the same moment."""
    table = tables.usage_days
    sums = (table.c.calls, table.c.attempts, table.c.unmetered, table.c.meters)
    # As text: a conversion per value by SQLAlchemy would take as long as everything else.
    query = select(table.c.day, table.c.dimensions, *sums, type_coerce(table.c.cost_pico, String))
    query = query.order_by(table.c.day, table.c.id)
    if first_day is not None:
        query = query.where(table.c.day >= first_day.isoformat())
    if last_day is not None:
        query = query.where(table.c.day <= last_day.isoformat())
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    with _no_collector():
        return _usage_rows(connection.execute(query).all())


def batches_in(connection: Connection) -> list[Batch]:
    """``Books.batches`` within a transaction."""
    postings: dict[int, list[Posting]] = {}
    lines = select(tables.postings).order_by(tables.postings.c.batch, tables.postings.c.line)
    for row in connection.execute(lines):
        postings.setdefault(row.batch, []).append(_posting(row))
    query = select(tables.batches).order_by(tables.batches.c.number)
    return [
        Batch(**{**row._asdict(), "kind": BatchKind(row.kind)}, postings=tuple(postings.get(row.number, ())))
        for row in connection.execute(query)
    ]


def _posting(row: Any) -> Posting:
    return Posting(
        account=Account(row.account),
        amount_pico=row.amount_pico,
        currency=row.currency,
        day=datetime.date.fromisoformat(row.day),
        tenant=row.tenant,
        channel=row.channel,
        memo=row.memo,
    )


def _open_period(period: str, last_closed: str | None) -> str:
    if last_closed is None or period > last_closed:
        return period
    year, month = map(int, last_closed.split("-"))
    return f"{year + month // 12:04d}-{month % 12 + 1:02d}"


def _add_usage(connection: Connection, usage: Iterable[UsageRow]) -> None:
    """Add rows to what is kept: two statements, however many rows there are."""
    table = tables.usage_days
    added = {(row.day.isoformat(), _dimensions(row)): row for row in usage}
    if not added:
        return
    sums = (table.c.id, table.c.day, table.c.dimensions, *(table.c[name] for name in _SUMS))
    query = select(*sums).where(table.c.day.in_({day for day, _ in added}))
    known = {(row.day, row.dimensions): row for row in connection.execute(query)}
    fresh, changed = [], []
    for key, row in added.items():
        before = known.get(key)
        values = {name: getattr(row, name) + (getattr(before, name) if before is not None else 0) for name in _COUNTS}
        meters = dict(row.meters)
        for name, quantity in (_decode_meters(before.meters) if before is not None else {}).items():
            meters[name] = meters.get(name, 0) + quantity
        values["meters"] = _encode(meters).decode()
        if before is None:
            digest = hashlib.sha256(key[1].encode()).hexdigest()
            fresh.append({"day": key[0], "dimensions": key[1], "digest": digest, "tenant": row.tenant, **values})
        else:
            changed.append({"at": before.id, **{f"new_{name}": value for name, value in values.items()}})
    if fresh:
        connection.execute(insert(table), fresh)
    if changed:
        news: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _SUMS}
        connection.execute(update(table).where(table.c.id == bindparam("at")).values(news), changed)


def _dimensions(row: UsageRow) -> str:
    """Return what tells a row from others as canonical JSON, without what is empty."""
    values = {name: value for name in _DIMENSIONS if (value := getattr(row, name))}
    return _encode(values).decode()


@contextmanager
def _no_collector() -> Iterator[None]:
    """Make many things that stay, without looking for cycles among them: a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _usage_rows(rows: Iterable[Any]) -> list[UsageRow]:
    """Return rows of the table as usage. What is the same on many days is read once: a month is read in half a second."""
    days: dict[str, datetime.date] = {}
    dimensions: dict[str, dict[str, Any]] = {}
    found = []
    for day_text, text, calls, attempts, unmetered, meters, cost in rows:
        day = days.get(day_text)
        if day is None:
            day = days[day_text] = datetime.date.fromisoformat(day_text)
        values = dimensions.get(text)
        if values is None:
            # What is empty is not kept; shared capacity has no tenant.
            values = dimensions[text] = {"tenant": "", **msgspec.json.decode(text)}
        found.append(
            UsageRow(
                day=day,
                calls=calls,
                attempts=attempts,
                unmetered=unmetered,
                meters=_decode_meters(meters),
                cost_pico=int(cost),
                **values,
            )
        )
    return found
