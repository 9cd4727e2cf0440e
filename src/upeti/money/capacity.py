"""Capacity that is paid by the hour whatever it serves: provisioned throughput.

Rules: a row says how many units are rented at which price, from when to when; what a day costs follows from it alone. A
call on such capacity costs an explicit zero per token (tier ``provisioned``); what spills over is priced as any call. A
row is known by what it rents and from when: a new price, another number of units, or an end is a later row, or an
``until`` that is put in; neither charges a day twice. Pure.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from upeti.core.amount import AmountError, Pico, parse_pico
from upeti.providers.dated_file import CurrencyCode, DatedRow, DecimalText, Text

_HOUR_S: Final = 3600
_UTC: Final = datetime.UTC


class CapacityFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `[[capacity]]` row as it is written. ``from`` and ``until`` are days or moments with an offset, UTC."""

    model: str = ""
    deployment: str = ""
    channel: str = ""
    units: Annotated[int, Meta(ge=1)]
    per_unit_hour: DecimalText
    currency: CurrencyCode
    begins: Any = msgspec.field(name="from")
    until: Any = None
    tenant: str = ""
    source: Text
    source_date: datetime.date
    remark: str = ""


class Capacity(msgspec.Struct, frozen=True):
    """Units rented by the hour."""

    id: str  # hash of what is rented and from when
    part: str
    name: str  # of the deployment, else of the model
    channel: str  # whom it is owed to; the part's name where none is given
    units: int
    unit_hour_pico: int
    currency: str
    begins: datetime.datetime
    until: datetime.datetime | None  # None: open
    tenant: str  # "": shared
    source: str
    source_date: datetime.date
    remark: str
    file: str
    line: int


class CapacityCost(msgspec.Struct, frozen=True):
    """What one row costs for one UTC day."""

    row: Capacity
    day: datetime.date
    seconds: int
    cost_pico: Pico


def capacity_of(part: str, dated: DatedRow[CapacityFields]) -> Capacity:
    """Raises ``ConfigError``."""
    fields = dated.values
    if not (fields.model or fields.deployment):
        raise dated.error("say what is rented: `model` or `deployment`")
    begins = _moment(dated, "from", fields.begins)
    until = None if fields.until is None else _moment(dated, "until", fields.until)
    if until is not None and until <= begins:
        raise dated.error("`until` must be later than `from`; it is the first moment that is no longer paid")
    try:
        unit_hour_pico = parse_pico(fields.per_unit_hour)
    except AmountError as error:
        raise dated.error(f"per_unit_hour: {error}") from error
    name, channel = fields.deployment or fields.model, fields.channel or part
    what = [part, channel, name, fields.tenant, begins.isoformat()]
    return Capacity(
        id=hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:16],
        part=part,
        name=name,
        channel=channel,
        units=fields.units,
        unit_hour_pico=unit_hour_pico,
        currency=fields.currency,
        begins=begins,
        until=until,
        tenant=fields.tenant,
        source=fields.source,
        source_date=fields.source_date,
        remark=fields.remark,
        file=dated.file,
        line=dated.line,
    )


def capacity_costs(rows: Iterable[Capacity], day: datetime.date) -> list[CapacityCost]:
    """Return what each row costs for one UTC day, for the part of it that it was rented; nothing for no part.

    A part of an hour is paid by the second, and a day is rounded once, half to even at the twelfth decimal.
    """
    midnight = datetime.datetime.combine(day, datetime.time(), _UTC)
    next_midnight = midnight + datetime.timedelta(days=1)
    costs = []
    for row in rows:
        end = next_midnight if row.until is None else min(next_midnight, row.until)
        seconds = int((end - max(midnight, row.begins)).total_seconds())
        if seconds > 0:
            costs.append(CapacityCost(row, day, seconds, _cost(row, seconds)))
    return costs


def _cost(row: Capacity, seconds: int) -> Pico:
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(row.units * row.unit_hour_pico * seconds) / _HOUR_S
        return Pico(int(exact.to_integral_value(rounding=ROUND_HALF_EVEN)))


def _moment(dated: DatedRow[CapacityFields], name: str, value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise dated.error(f"`{name}` has no offset; write 2026-01-31T13:00:00Z, or a day such as 2026-01-31")
        return value.astimezone(_UTC).replace(microsecond=0)
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time(), _UTC)
    raise dated.error(f"`{name}` is no date; write 2026-01-31, or 2026-01-31T13:00:00Z")
