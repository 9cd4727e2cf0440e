"""Prices that another source states, beside the book: what agrees, what differs, what only one side has.

Rules: nothing is trusted blindly and nothing is left out in silence. What a source says and the book cannot hold is
named with the reason. A price that a source takes from another seller's list is not a price, and is named too. Nothing
is written but what a person chose.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

import msgspec

from upeti.core.amount import PICO_PER_UNIT, AmountError, decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.core.meters import ALL_METERS
from upeti.money.price import Cliff, Price
from upeti.money.price_book import Cell, ModelFacts, PriceBook, Row
from upeti.money.usage import PER_CALL
from upeti.providers.dated_file import read_bytes

UNITS_PER_MILLION: Final = 10**6

PerMillion = Mapping[str, Decimal]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says that one model costs at one tier, in one zone, from a day on."""

    cell: Cell
    first_day: datetime.date
    currency: str
    pico: dict[str, int]  # meter → pico units per counted unit
    cliffs: tuple[Cliff, ...] = ()
    per_call_pico: int = 0
    source: str
    source_date: datetime.date
    remark: str = ""
    facts: ModelFacts = ModelFacts()


class Unmapped(msgspec.Struct, frozen=True, order=True):
    """Something that a source says and the book cannot hold, and why."""

    why: str
    name: str


class Source(msgspec.Struct, frozen=True):
    """All that a source says."""

    name: str
    parts: tuple[str, ...]
    offers: list[Offer]
    unmapped: list[Unmapped]
    fallbacks: dict[str, str] = msgspec.field(default_factory=dict)  # model → whose price the source gives instead
    fallback_offers: list[Offer] = msgspec.field(default_factory=list)  # and which: never taken


class Difference(msgspec.Struct, frozen=True):
    """One price that the two sides state differently; None: that side has none."""

    cell: Cell
    meter: str  # of the book's meters, "per_call", or "currency"
    above_input_tokens: int  # the cliff; 0: below the first
    book: str | None  # per million units, or the currency
    source: str | None
    row: Row
    offer: Offer


class Comparison(msgspec.Struct, frozen=True):
    """A source beside the book, on one day."""

    source: Source
    day: datetime.date
    agree: list[Offer]
    differences: list[Difference]
    only_source: list[Offer]
    only_book: list[tuple[Cell, Row]]
    fallbacks: list[Difference] = msgspec.field(default_factory=list)  # where another seller's list would mislead


def compare(
    source: Source, book: PriceBook, day: datetime.date, *, source_day: datetime.date | None = None
) -> Comparison:
    """Put what ``source`` says beside what the book holds on ``day``, model by model, tier by tier, zone by zone.

    ``source_day``: on which day the source is asked, if not the same.
    """
    newest = _newest(source.offers, source_day or day)
    held = {cell: row for cell in book.cells() if (row := _own_row(book, cell, day)) is not None}
    agree, differences, only_source = [], [], []
    for cell, offer in sorted(newest.items()):
        row = held.get(cell)
        if row is None:
            only_source.append(offer)
        elif found := _differences(offer, row):
            differences += found
        else:
            agree.append(offer)
    only_book = [(cell, row) for cell, row in sorted(held.items()) if cell.part in source.parts and cell not in newest]
    misleading = [
        one
        for cell, offer in sorted(_newest(source.fallback_offers, source_day or day).items())
        if cell in held
        for one in _differences(offer, held[cell])
    ]
    return Comparison(source, day, agree, differences, only_source, only_book, misleading)


def _newest(offers: Iterable[Offer], day: datetime.date) -> dict[Cell, Offer]:
    return {offer.cell: offer for offer in sorted(offers, key=lambda one: one.first_day) if offer.first_day <= day}


def _own_row(book: PriceBook, cell: Cell, day: datetime.date) -> Row | None:
    row = book.as_of(day, cell.part, cell.model, cell.tier, cell.zone)
    return row if row is not None and row.zone == cell.zone and cell.model in row.models else None


def _differences(offer: Offer, row: Row) -> list[Difference]:
    price = row.price
    if price.currency != offer.currency:
        return [Difference(offer.cell, "currency", 0, price.currency, offer.currency, row, offer)]
    found = []
    said, held = _by_cliff(offer.pico, offer.cliffs), _by_cliff(price.pico, price.cliffs)
    said[0, PER_CALL], held[0, PER_CALL] = offer.per_call_pico, price.per_call_pico
    for above, meter in sorted(said.keys() | held.keys()):
        mine, theirs = held.get((above, meter)), said.get((above, meter))
        if mine != theirs:
            found.append(Difference(offer.cell, meter, above, _shown(mine, meter), _shown(theirs, meter), row, offer))
    return found


def _by_cliff(pico: Mapping[str, int], cliffs: Iterable[Cliff]) -> dict[tuple[int, str], int]:
    cells = {(0, meter): amount for meter, amount in pico.items()}
    for cliff in cliffs:
        cells |= {(cliff.above_input_tokens, meter): amount for meter, amount in cliff.pico.items()}
    return cells


def _shown(pico: int | None, meter: str) -> str | None:
    if pico is None:
        return None
    return decimal_text(pico if meter == PER_CALL else pico * UNITS_PER_MILLION)


# -- reading ---------------------------------------------------------------------------------------------------


def pico_of(per_million: PerMillion) -> dict[str, int]:
    """Return pico units per unit. Raises ``AmountError`` for a price finer than the twelfth decimal of one unit."""
    cells = {}
    for meter, price in per_million.items():
        pico, rest = divmod(price * PICO_PER_UNIT, UNITS_PER_MILLION)
        if rest or pico != int(pico):
            raise AmountError(f"{meter}: {price} per million is finer than 10⁻¹² for one unit")
        cells[meter] = int(pico)
    return cells


def of_rows(name: str, rows: Iterable[Row]) -> Source:
    """Return what a price file says."""
    offers = [
        Offer(
            cell=Cell(row.part, model, row.tier, row.zone),
            first_day=row.effective,
            currency=row.price.currency,
            pico=row.price.pico,
            cliffs=row.price.cliffs,
            per_call_pico=row.price.per_call_pico,
            source=row.price.source,
            source_date=row.source_date,
            remark=row.price.remark,
            facts=row.facts,
        )
        for row in rows
        for model in row.models
    ]
    return Source(name, tuple(sorted({offer.cell.part for offer in offers})), offers, [])


CSV_COLUMNS: Final = (
    "part",
    "model",
    "tier",
    "zone",
    "from",
    "currency",
    "meter",
    "above_input_tokens",
    "per_million",
    "source",
    "source_date",
)
_CSV_OPTIONAL: Final = frozenset({"tier", "zone", "above_input_tokens"})


def of_csv(path: Path) -> Source:
    """Return what a CSV file says: one line for each price, ``CSV_COLUMNS``. Raises ``ConfigError``."""
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig")), strict=True)
        missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ()) and name not in _CSV_OPTIONAL]
        if missing:
            raise ConfigError(
                f"{path}:1: there is no column {', '.join(missing)}; the columns are {', '.join(CSV_COLUMNS)}"
            )
        groups: dict[tuple[str, ...], dict[tuple[int, str], Decimal]] = {}
        for number, line in enumerate(reader, 2):
            _read_line(f"{path}:{number}", line, groups)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV file in UTF-8: {error}") from error
    offers = [_csv_offer(str(path), key, cells) for key, cells in groups.items()]
    return Source(path.name, tuple(sorted({offer.cell.part for offer in offers})), offers, [])


def _read_line(place: str, line: dict[str, str], groups: dict[tuple[str, ...], dict[tuple[int, str], Decimal]]) -> None:
    fields = {name: (line.get(name) or "").strip() for name in CSV_COLUMNS}
    for name, text in fields.items():
        if not text and name not in _CSV_OPTIONAL:
            raise ConfigError(f"{place}: {name} is empty; no price is complete without it")
    if fields["meter"] not in (*ALL_METERS, PER_CALL):
        raise ConfigError(f"{place}: {fields['meter']} is not a meter; the meters are: {', '.join(ALL_METERS)}")
    try:
        datetime.date.fromisoformat(fields["from"])
        datetime.date.fromisoformat(fields["source_date"])
        above = int(fields["above_input_tokens"] or 0)
        price = Decimal(fields["per_million"])
    except (ValueError, InvalidOperation) as error:
        raise ConfigError(f"{place}: {error}; write dates as 2026-01-31 and prices as 2.50") from None
    if not price.is_finite() or price < 0:
        raise ConfigError(f"{place}: {price} is no price")
    key = tuple(fields[name] for name in ("part", "model", "tier", "zone", "from", "currency", "source", "source_date"))
    cells = groups.setdefault(key, {})
    if cells.setdefault((above, fields["meter"]), price) is not price:
        raise ConfigError(f"{place}: {fields['meter']} of {fields['model']} has a price already; keep one of them")


def _csv_offer(file: str, key: tuple[str, ...], cells: Mapping[tuple[int, str], Decimal]) -> Offer:
    part, model, tier, zone, first_day, currency, source, source_date = key
    try:
        per_call = parse_pico(cells.get((0, PER_CALL), Decimal(0)))
        by_cliff: dict[int, dict[str, int]] = {}
        for (above, meter), price in cells.items():
            if meter != PER_CALL:
                by_cliff.setdefault(above, {}).update(pico_of({meter: price}))
    except AmountError as error:
        raise ConfigError(f"{file}: {model}: {error}; round it, and say so in the source") from error
    base = by_cliff.pop(0, {})
    return Offer(
        cell=Cell(part, model, tier, zone),
        first_day=datetime.date.fromisoformat(first_day),
        currency=currency,
        pico=base,
        cliffs=tuple(Cliff(above, {**base, **by_cliff[above]}) for above in sorted(by_cliff)),
        per_call_pico=per_call,
        source=source,
        source_date=datetime.date.fromisoformat(source_date),
    )


# -- writing ---------------------------------------------------------------------------------------------------


def chosen(comparison: Comparison, models: Sequence[str], take: str, from_day: datetime.date | None) -> list[Offer]:
    """Return the rows that a person chose, of what differs or only one side has, with the day they are to hold from.

    ``take`` is "source" or "book"; no models: all. Without ``from_day`` a row holds from the day that its side states, but
    not before the book's own row, which it would not come after. Raises ``ConfigError`` for a model that is not there.
    """
    picked: dict[Cell, Offer] = {}
    for one in comparison.differences:
        first_day = from_day or max(one.offer.first_day, one.row.effective)
        if take == "source":
            remark = one.offer.remark
            note = f"Takes the place of row {one.row.price.id} ({one.row.price.source})."
            offer = msgspec.structs.replace(one.offer, remark=f"{remark} {note}".strip())
        else:
            note = f"Kept although {one.offer.source} says otherwise."
            offer = _of_row(one.cell, one.row, f"{one.row.price.remark} {note}".strip())
        facts = offer.facts if offer.facts != ModelFacts() else one.row.facts
        picked[one.cell] = msgspec.structs.replace(offer, first_day=first_day, facts=facts)
    if take == "source":
        for offer in comparison.only_source:
            picked[offer.cell] = msgspec.structs.replace(offer, first_day=from_day or offer.first_day)
    else:
        for cell, row in comparison.only_book:
            first_day = from_day or row.effective
            picked[cell] = msgspec.structs.replace(_of_row(cell, row, row.price.remark), first_day=first_day)
    unknown = sorted(set(models) - {cell.model for cell in picked})
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: nothing to write, the book and the source agree or neither has it; "
            "without --model everything that differs is taken"
        )
    return [offer for cell, offer in sorted(picked.items()) if not models or cell.model in models]


def _of_row(cell: Cell, row: Row, remark: str) -> Offer:
    price: Price = row.price
    return Offer(
        cell=cell,
        first_day=row.effective,
        currency=price.currency,
        pico=price.pico,
        cliffs=price.cliffs,
        per_call_pico=price.per_call_pico,
        source=price.source,
        source_date=row.source_date,
        remark=remark,
        facts=row.facts,
    )


def price_file(part: str, offers: Sequence[Offer], head: Sequence[str] = ()) -> str:
    """Return a price file; models with all else in common share a row."""
    rows: dict[str, list[str]] = {}
    for offer in offers:
        rows.setdefault(_row_text(offer), []).append(offer.cell.model)
    above = "".join(f"# {line}\n" for line in head) + f"\npart = {_quoted(part)}\n"
    return above + "".join(
        f"\n[[price]]\nmodels = [{', '.join(map(_quoted, models))}]\n{text}" for text, models in rows.items()
    )


def _row_text(offer: Offer) -> str:
    lines = [f"from = {offer.first_day}", f"currency = {_quoted(offer.currency)}"]
    lines += [
        f"{name} = {_quoted(text)}" for name, text in (("tier", offer.cell.tier), ("zone", offer.cell.zone)) if text
    ]
    lines.append(f"per_million = {_cells_text(offer.pico)}")
    if offer.cliffs:
        lines.append("cliffs = [")
        for cliff in offer.cliffs:
            cells = _cells_text(cliff.pico)
            lines.append(f"    {{ above_input_tokens = {cliff.above_input_tokens}, per_million = {cells} }},")
        lines.append("]")
    if offer.per_call_pico:
        lines.append(f"per_call = {_quoted(decimal_text(offer.per_call_pico))}")
    if offer.facts.context_tokens:
        lines.append(f"context_tokens = {offer.facts.context_tokens}")
    if offer.facts.output_tokens_max:
        lines.append(f"output_tokens_max = {offer.facts.output_tokens_max}")
    lines += [f"source = {_quoted(offer.source)}", f"source_date = {offer.source_date}"]
    if offer.remark:
        lines.append(f"remark = {_quoted(offer.remark)}")
    return "\n".join(lines) + "\n"


def _cells_text(pico: Mapping[str, int]) -> str:
    cells = [f'{meter} = "{_per_million(pico[meter])}"' for meter in ALL_METERS if meter in pico]
    return "{ " + ", ".join(cells) + " }"


def _per_million(pico: int) -> str:
    """At least two decimals, as price lists are written: 2.5 → 2.50."""
    whole, _, decimals = decimal_text(pico * UNITS_PER_MILLION).partition(".")
    return f"{whole}.{decimals:0<2}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
