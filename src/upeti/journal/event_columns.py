"""From records to the columns of events: an attempt's opening and its end, joined. No Arrow, no DuckDB here.

An event is what is known of an attempt once it is settled, or recovered by a keeper. A cost is None when no
price applied (unpriced), a meter is None when it was not reported: unknown is not zero. An attempt opened in
an earlier segment is joined through the list that a segment carries over. A correction is an event of its own, with
the outcome *corrected* and the difference that it makes: sums over events are right, counts leave it out.

What many events have in common (caller, model, outcome, day) is looked at once per group of them, not per event:
that is half the time of reading a journal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from upeti.core.amount import parse_pico
from upeti.core.errors import JournalError
from upeti.core.events import (
    AttemptOpened,
    AttemptRecovered,
    AttemptSettled,
    CallRefused,
    CostCorrected,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.core.meters import ALL_METERS
from upeti.journal.reader import AttemptName, SegmentScan

ENDED_RECOVERED: Final = "worker_died"  # the ``ended`` of an attempt that a keeper settled

CORRECTED: Final = "corrected"  # the ``outcome`` of an event that corrects what others cost, beside ``Outcome``

TEXT: Final = "text"
INTEGER: Final = "integer"
FLAG: Final = "flag"
TIME: Final = "time"  # microseconds since 1970 UTC
PICO: Final = "pico"  # at rest: DECIMAL(38,12)


class Rows(msgspec.Struct):
    """Events, refusals and open attempts by parallel lists: a tuple per row would cost more than the rest."""

    instances: list[str] = msgspec.field(default_factory=list)  # of each event or open attempt
    opened: list[AttemptOpened] = msgspec.field(default_factory=list)
    settled: list[AttemptSettled] = msgspec.field(default_factory=list)  # beside ``opened``; none: all are open
    corrections: dict[int, CostCorrected] = msgspec.field(default_factory=dict)  # by place in ``opened``
    refused_instances: list[str] = msgspec.field(default_factory=list)
    refused: list[CallRefused] = msgspec.field(default_factory=list)
    groups: list[Group] = msgspec.field(default_factory=list)
    group_of: list[int] = msgspec.field(default_factory=list)  # place in ``groups``, beside ``settled``
    meters: dict[str, list[int | None]] = msgspec.field(default_factory=dict)  # of those that any event has

    def arrange(self) -> None:
        """Fill in groups and meters, once all events are there."""
        keys = list(
            zip(
                map(_of_opened, self.opened),
                map(_of_settled, self.settled),
                [one.at_ns // _DAY_NS for one in self.settled],
                strict=True,
            )
        )
        for place in self.corrections:
            opened, settled, day = keys[place]
            keys[place] = (opened, (CORRECTED, *settled[1:]), day)
        places: dict[Any, int] = {}
        self.group_of = [places.setdefault(key, len(places)) for key in keys]
        self.groups = [Group._make((*opened, *settled, day)) for opened, settled, day in places]
        meters = [one.meters or _NO_METERS for one in self.settled]
        self.meters = {name: [one.get(name) for one in meters] for name in dict.fromkeys(chain.from_iterable(meters))}


class Group(NamedTuple):
    """What events have in common. Fields of the opening, of the settlement, and the day."""

    tenant: str
    project: str
    key: str
    feature: str
    task: str
    route: str
    channel: str
    model: str
    wire: str
    stream: bool
    currency: str
    outcome: str
    ended: str
    status: int
    price_id: str
    tier: str
    day: int  # since 1970 UTC, that of the settlement


_DAY_NS: Final = 86_400 * 10**9
_NO_METERS: Final[dict[str, int]] = {}
_SETTLED_PLACE: Final = Group._fields.index("outcome")
_of_opened: Final = attrgetter(*Group._fields[:_SETTLED_PLACE])
_of_settled: Final = attrgetter(*Group._fields[_SETTLED_PLACE:-1])


class Column(NamedTuple):
    """``values`` are one per row, or, where ``grouped``, one per group of ``Rows.groups``. None: all are unknown."""

    name: str
    kind: str
    values: Callable[[Rows], list[Any] | None]
    grouped: bool = False


class SegmentRows:
    """The events and refusals of one segment, in batches; afterwards what is open and how it ended."""

    def __init__(self, path: Path, previous_digest: bytes) -> None:
        self.scan = SegmentScan(path, previous_digest)
        self.open: dict[AttemptName, AttemptOpened] = {}
        self.closed = False
        self._instance = path.parent.name
        self._corrections = 0

    def batches(self, rows_max: int) -> Iterator[Rows]:
        """Yield events and refusals. Raises ``JournalError`` for damage."""
        rows = Rows()
        for records in self.scan:
            self._take(records, rows)
            if len(rows.opened) + len(rows.refused) >= rows_max:
                rows.arrange()
                yield rows
                rows = Rows()
        rows.arrange()
        yield rows

    def _take(self, records: list[Record], rows: Rows) -> None:
        instance, left_open = self._instance, self.open
        for record in records:
            if isinstance(record, AttemptOpened):
                left_open[record.call, record.attempt] = record
            elif isinstance(record, AttemptSettled):
                opened = left_open.pop((record.call, record.attempt), None)
                if opened is not None:
                    rows.instances.append(instance)
                    rows.opened.append(opened)
                    rows.settled.append(record)
                elif record.outcome is not Outcome.VOIDED:
                    name = f"{self._instance}: attempt {record.call}-{record.attempt}"
                    raise JournalError(f"{name} was settled without being open; see `upeti journal verify`")
            elif isinstance(record, AttemptRecovered):
                rows.instances.append(record.instance)
                rows.opened.append(record.opened)
                rows.settled.append(_settlement(record))
            elif isinstance(record, CostCorrected):
                self._correct(record, rows)
            elif isinstance(record, CallRefused):
                rows.refused_instances.append(self._instance)
                rows.refused.append(record)
            elif isinstance(record, SegmentOpened):
                self.open = left_open = {(one.call, one.attempt): one for one in record.carried}
            elif isinstance(record, SegmentClosed):
                self.closed = True

    def _correct(self, record: CostCorrected, rows: Rows) -> None:
        rows.corrections[len(rows.opened)] = record
        rows.instances.append(self._instance)
        opened, settled = _correction(record, self._corrections)
        rows.opened.append(opened)
        rows.settled.append(settled)
        self._corrections += 1


def _correction(record: CostCorrected, number: int) -> tuple[AttemptOpened, AttemptSettled]:
    """Return a correction as what an attempt would say; ``number`` stands for its call's."""
    call_id, _, attempt = record.attempt_id.rpartition("-")
    opened = AttemptOpened(
        call=number,
        attempt=int(attempt) if attempt.isdecimal() else 0,
        at_ns=record.at_ns,
        call_id=call_id,
        tenant=record.tenant,
        project=record.project,
        key=record.key,
        feature=record.feature,
        task=record.task,
        route=record.route,
        channel=record.channel,
        model=record.model,
        wire=record.wire,
        stream=False,
        budgets=(),
        bound_pico=0,
        currency=record.currency,
        priced=False,
    )
    settled = AttemptSettled(
        call=number,
        attempt=opened.attempt,
        at_ns=record.settled_ns,
        outcome=Outcome.POSTED,
        ended=record.reason,
        status=0,
        meters=record.meters,
        cost_pico=difference_pico(record),
        price_id=record.price_id,
        tier=record.tier,
    )
    return opened, settled


def difference_pico(record: CostCorrected) -> int:
    """Return by how much a correction raises what is owed."""
    return parse_pico(record.now) - parse_pico(record.was)


def _settlement(record: AttemptRecovered) -> AttemptSettled:
    return AttemptSettled(
        call=record.opened.call,
        attempt=record.opened.attempt,
        at_ns=record.at_ns,
        outcome=Outcome.ESTIMATED if record.opened.priced else Outcome.UNPRICED,
        ended=ENDED_RECOVERED,
        status=0,
        meters=None,
        cost_pico=record.cost_pico,
    )


def _of(rows: str, kind: str, *names: str) -> tuple[Column, ...]:
    """Columns that are fields of the records in one list of ``Rows``, under the same names."""

    def column(name: str) -> Column:
        records, field = attrgetter(rows), attrgetter(name)
        return Column(name, kind, lambda batch: list(map(field, records(batch))))

    return tuple(column(name) for name in names)


def _in_group(kind: str, *names: str) -> tuple[Column, ...]:
    """Columns that all events of a group have in common."""

    def column(name: str) -> Column:
        field = attrgetter(name)
        return Column(name, kind, lambda batch: list(map(field, batch.groups)), grouped=True)

    return tuple(column(name) for name in names)


def _meter(name: str) -> Column:
    return Column(name, INTEGER, lambda rows: rows.meters.get(name))


def _micros(name: str) -> Column:
    field = attrgetter(name)
    return Column(name, INTEGER, lambda rows: [None if (us := field(one)) < 0 else us for one in rows.settled])


_KNOWN_METERS = frozenset(ALL_METERS)


def _other_meters(rows: Rows) -> list[Any] | None:
    if rows.meters.keys() <= _KNOWN_METERS:
        return None
    texts: list[str | None] = []
    for one in rows.settled:
        others = {name: count for name, count in sorted((one.meters or {}).items()) if name not in _KNOWN_METERS}
        texts.append(json.dumps(others) if others else None)
    return texts


def _of_correction(name: str, kind: str, value: Callable[[CostCorrected], Any]) -> Column:
    """A column that only corrections fill."""

    def values(rows: Rows) -> list[Any] | None:
        if not rows.corrections:
            return None
        filled: list[Any] = [None] * len(rows.opened)
        for place, record in rows.corrections.items():
            filled[place] = value(record)
        return filled

    return Column(name, kind, values)


def _attempt_ids(rows: Rows) -> list[Any]:
    names = [f"{one.call_id}-{one.attempt}" for one in rows.opened]
    for place, record in rows.corrections.items():
        names[place] = record.attempt_id
    return names


_INSTANCE = Column("instance", TEXT, lambda rows: rows.instances)
_OPENED_AT = Column("opened_at", TIME, lambda rows: [one.at_ns // 1000 for one in rows.opened])
_BOUND = Column("bound", PICO, lambda rows: [one.bound_pico if one.priced else None for one in rows.opened])
_CALLER = ("tenant", "project", "key", "feature", "task", "route")

EVENT_COLUMNS: Final = (
    _INSTANCE,
    *_of("opened", INTEGER, "call", "attempt"),
    *_of("opened", TEXT, "call_id"),
    Column("attempt_id", TEXT, _attempt_ids),
    _OPENED_AT,
    Column("settled_at", TIME, lambda rows: [one.at_ns // 1000 for one in rows.settled]),
    *_in_group(TEXT, *_CALLER, "channel", "model", "wire"),
    *_in_group(FLAG, "stream"),
    *_in_group(TEXT, "outcome", "ended"),
    *_in_group(INTEGER, "status"),
    *(_meter(name) for name in ALL_METERS),
    # JSON of meters that have no column of their own
    Column("meters_other", TEXT, _other_meters),
    Column(
        "cost",
        PICO,
        lambda rows: [None if one.outcome is Outcome.UNPRICED else one.cost_pico for one in rows.settled],
    ),
    _BOUND,
    *_in_group(TEXT, "currency", "price_id"),
    _micros("first_byte_us"),
    _micros("total_us"),
    *_of("settled", TEXT, "provider_request_id"),
    *_in_group(TEXT, "tier"),
    _of_correction("correction_id", TEXT, lambda record: record.correction_id),
    # with which outcome the corrected attempts were settled, and what they cost before
    _of_correction("corrects", TEXT, lambda record: record.outcome),
    _of_correction("was", PICO, lambda record: parse_pico(record.was)),
)
REFUSAL_COLUMNS: Final = (
    Column("instance", TEXT, lambda rows: rows.refused_instances),
    *_of("refused", INTEGER, "call"),
    *_of("refused", TEXT, "call_id"),
    Column("refused_at", TIME, lambda rows: [one.at_ns // 1000 for one in rows.refused]),
    *_of("refused", TEXT, *_CALLER, "code"),
)
PENDING_COLUMNS: Final = (
    _INSTANCE,
    *_of("opened", INTEGER, "call", "attempt"),
    *_of("opened", TEXT, "call_id"),
    _OPENED_AT,
    *_of("opened", TEXT, *_CALLER, "channel", "model"),
    _BOUND,
    *_of("opened", TEXT, "currency"),
)
