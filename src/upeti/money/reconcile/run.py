"""One reconciliation, from files and usage to a statement of every difference."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from upeti.money.reconcile.classify import classify
from upeti.money.reconcile.detect import open_report, sha256_of
from upeti.money.reconcile.lines import Report
from upeti.money.reconcile.match import (
    AbortedKey,
    Channels,
    ConvertTo,
    LineKey,
    Matched,
    OurCapacity,
    OurUsage,
    PriceOf,
    TakenBackKey,
    Theirs,
    collect,
    match,
)
from upeti.money.reconcile.statement import Billed, Line, Totals, totals


class Read(msgspec.Struct):
    """A report that was read to its end."""

    report: Report
    sums: dict[LineKey, Theirs]
    sha256: str
    first_day: datetime.date | None  # what is compared: the days asked for, of those that the report covers
    last_day: datetime.date | None

    @property
    def channels(self) -> set[str]:
        """The channels that the report speaks of."""
        return {key.channel for key in self.sums} - {""}

    @property
    def calls(self) -> set[str]:
        return {key.call for key in self.sums} - {""}


class Statement(msgspec.Struct):
    """What came out: every line with its difference named, sums by currency, and what a reader must know beside them."""

    format: str
    sha256: str
    first_day: datetime.date
    last_day: datetime.date
    lines: list[Line]
    totals: dict[str, Totals]
    notes: list[str]
    billed: list[Billed]  # what of it was billed for estimated calls

    @property
    def explained(self) -> bool:
        return not any(total.unexplained_lines for total in self.totals.values())


def read(
    paths: Sequence[Path],
    channels_of: Callable[[str], Channels],
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
) -> Read:
    """Read a report to its end; ``channels_of`` gives the channels of a provider. Raises ``ReportError``."""
    report = open_report(paths)
    sums = collect(report, channels_of(report.provider), first_day, last_day)
    first = max((day for day in (first_day, report.first_day) if day is not None), default=None)
    last = min((day for day in (last_day, report.last_day) if day is not None), default=None)
    return Read(report, sums, sha256_of(paths), first, last)


def compare(
    read_report: Read,
    usage: Iterable[OurUsage],
    price_of: PriceOf,
    *,
    aborted: Mapping[AbortedKey, int] | None = None,
    taken_back: Mapping[TakenBackKey, int] | None = None,
    capacity: Iterable[OurCapacity] = (),
    call_names: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    convert: ConvertTo | None = None,
    tolerance_pico: int = 0,
) -> Statement:
    """Compare a report with the usage of its days and channels. Raises ``MatchError``."""
    report = read_report.report
    matched = match(
        report,
        read_report.sums,
        usage,
        price_of,
        aborted=aborted,
        taken_back=taken_back,
        capacity=capacity,
        call_names=call_names,
        models=models,
        convert=convert,
    )
    result = classify(matched, decimals=report.decimals, tolerance_pico=tolerance_pico)
    epoch = datetime.date(1970, 1, 1)
    return Statement(
        format=report.format,
        sha256=read_report.sha256,
        first_day=read_report.first_day or epoch,
        last_day=read_report.last_day or epoch,
        lines=result.lines,
        totals=totals(result.lines),
        notes=_notes(report, matched),
        billed=result.billed,
    )


def _notes(report: Report, matched: Matched) -> list[str]:
    notes = [f"{count:,} × {text}" for text, count in report.notes.items()]
    residue = report.residue_note()
    if residue is not None:
        notes.append(residue)
    foreign: dict[str, int] = {}
    for days in matched.groups.values():
        for day in days.values():
            for cell in day.cells.values():
                if cell.theirs.converted_from:
                    currency = cell.theirs.converted_from
                    foreign[currency] = foreign.get(currency, 0) + cell.theirs.lines
    notes += [
        f"{count:,} lines in {currency} were converted at your rate" for currency, count in sorted(foreign.items())
    ]
    return notes
