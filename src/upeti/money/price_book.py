"""The price book: what each model costs, where, at which service tier, and from which day on.

Rules: the book only grows. A row is never edited, because bills name it by the hash of its content; a new
price is a new row with a later date. A model that is not in the book has no price, which is not a price of
zero, and a service tier that is not in it is not the standard one. Of two rows for the same part, model, tier, zone and
date the one read later holds, so a file of one's own corrects
the shipped book, and both stay to be seen in ``rows``. Prices are written per million units, as decimal
strings, and held as whole pico units per unit; what does not divide exactly is refused.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from upeti.core.amount import AmountError, decimal_text, parse_pico
from upeti.core.meters import ALL_METERS
from upeti.money.capacity import Capacity, CapacityFields, capacity_of
from upeti.money.price import Cliff, Price
from upeti.providers.dated_file import (
    CurrencyCode,
    DatedRow,
    DecimalText,
    Text,
    head_of,
    read_bytes,
    split_tables,
    typed_rows,
)

ANY_MODEL: Final = "*"
_UNITS_PER_MILLION: Final = 10**6
_NS_PER_DAY: Final = 86_400 * 10**9
_EPOCH: Final = datetime.date(1970, 1, 1)

# A model whose prices are told apart by zone has in a zone only the price of that zone; any other has one everywhere.
ANY_ZONE: Final = ""

Tokens = Annotated[int, Meta(ge=1)]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9_]{0,64}$")]
PerMillion = Annotated[dict[str, DecimalText], Meta(min_length=1)]


class ModelFacts(msgspec.Struct, frozen=True):
    """What bounds a call to a model; None where it is not surely known."""

    context_tokens: int | None = None
    output_tokens_max: int | None = None


class Row(msgspec.Struct, frozen=True):
    """One row as it stands in the book."""

    part: str
    models: tuple[str, ...]
    price: Price  # the one object that all models of the row share
    effective: datetime.date
    source_date: datetime.date  # when the source was read
    facts: ModelFacts
    file: str
    line: int

    @property
    def tier(self) -> str:
        return self.price.tier

    @property
    def zone(self) -> str:
        return self.price.zone


class Cell(NamedTuple):
    """What a price is kept under."""

    part: str
    model: str
    tier: str
    zone: str


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    part: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


class _CliffFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    above_input_tokens: Tokens
    per_million: PerMillion


class _RowFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A row as it is written. ``from`` is the first day, UTC, on which it holds."""

    models: Annotated[tuple[Text, ...], Meta(min_length=1)]
    effective: datetime.date = msgspec.field(name="from")
    currency: CurrencyCode
    per_million: PerMillion
    tier: Label = ""
    zone: Label = ""
    cliffs: tuple[_CliffFields, ...] = ()
    per_call: DecimalText = "0"
    context_tokens: Tokens | None = None
    output_tokens_max: Tokens | None = None
    source: Text
    source_date: datetime.date
    remark: str = ""


class PriceBook:
    """Rows in the order in which they were read, found by part, model, tier and zone."""

    def __init__(self, rows: Iterable[Row], capacity: Iterable[Capacity] = ()) -> None:
        self.rows: tuple[Row, ...] = tuple(rows)
        self.capacity: tuple[Capacity, ...] = tuple(capacity)
        dated: dict[Cell, dict[datetime.date, Row]] = {}
        for row in self.rows:
            for model in row.models:
                dated.setdefault(Cell(row.part, model, row.tier, row.zone), {})[row.effective] = row
        self._ascending: dict[Cell, tuple[Row, ...]] = {
            cell: tuple(by_date[date] for date in sorted(by_date)) for cell, by_date in dated.items()
        }
        self._tiers: dict[tuple[str, str], set[str]] = {}
        for cell in self._ascending:
            self._tiers.setdefault((cell.part, cell.model), set()).add(cell.tier)
        self._zoned = {(cell.part, cell.model, cell.tier) for cell in self._ascending if cell.zone}

    @staticmethod
    @cache
    def shipped() -> PriceBook:
        """Return the book that comes with Upeti."""
        folder = files("upeti.providers") / "facts" / "prices"
        sources = [file for file in folder.iterdir() if file.name.endswith(".toml")]
        sources.sort(key=lambda file: file.name)
        return PriceBook(row for file in sources for row in _read(file, file.name)[0])

    @classmethod
    def load(cls, paths: Iterable[Path | str] = ()) -> PriceBook:
        """Return the shipped book with the rows of ``paths`` after it. Raises ``ConfigError``."""
        shipped = cls.shipped()
        rows, capacity = list(shipped.rows), list(shipped.capacity)
        for path in paths:
            more, hours = _read(Path(path), str(path))
            rows += more
            capacity += hours
        return cls(rows, capacity)

    @classmethod
    def of_file(cls, path: Path | str) -> PriceBook:
        """Return the rows of one file alone. Raises ``ConfigError``."""
        return cls(*_read(Path(path), str(path)))

    def parts(self) -> list[str]:
        return sorted({cell.part for cell in self._ascending})

    def models(self, part: str) -> list[str]:
        """Return the names that a part prices; ``*`` stands for every other name."""
        return sorted(model for at, model in self._tiers if at == part)

    def cells(self) -> list[Cell]:
        """Return everything that has a price of its own, sorted."""
        return sorted(self._ascending)

    def prices(self, part: str, model: str, tier: str = "", zone: str = ANY_ZONE) -> tuple[Price, ...]:
        """Return a model's prices at one tier, ascending by date; () when the book does not know it."""
        return tuple(row.price for row in self.rows_of(part, model, tier, zone))

    def all_tiers(self, part: str, model: str, zone: str = ANY_ZONE) -> tuple[Price, ...]:
        """Return a model's prices at every tier, ascending by date within each."""
        tiers = self._tiers.get((part, model), set()) | self._tiers.get((part, ANY_MODEL), set())
        return tuple(price for tier in sorted(tiers) for price in self.prices(part, model, tier, zone))

    def rows_of(self, part: str, model: str, tier: str = "", zone: str = ANY_ZONE) -> tuple[Row, ...]:
        """Return a model's rows at one tier, ascending by date: its own, else those of ``*``."""
        for name in (model, ANY_MODEL):
            if tier in self._tiers.get((part, name), ()):
                at = zone if (part, name, tier) in self._zoned else ANY_ZONE
                return self._ascending.get(Cell(part, name, tier, at), ())
        return ()

    def as_of(self, day: datetime.date, part: str, model: str, tier: str = "", zone: str = ANY_ZONE) -> Row | None:
        """Return the row in force on a UTC day."""
        return next((row for row in reversed(self.rows_of(part, model, tier, zone)) if row.effective <= day), None)

    def facts(self, part: str, model: str) -> ModelFacts:
        """Return what is known of a model: each fact from the newest row that states it."""
        context_tokens = output_tokens_max = None
        for row in self.rows_of(part, model):
            context_tokens = row.facts.context_tokens or context_tokens
            output_tokens_max = row.facts.output_tokens_max or output_tokens_max
        return ModelFacts(context_tokens, output_tokens_max)

    def row(self, price_id: str) -> Row | None:
        """Return the row that a bill names."""
        return next((row for row in self.rows if row.price.id == price_id), None)


def _read(source: Path | Traversable, name: str) -> tuple[list[Row], list[Capacity]]:
    text, document, (prices, capacity) = split_tables(name, read_bytes(source), "price", "capacity")
    head = head_of(name, document, _Head)
    first_at: dict[tuple[str, str, str, datetime.date], int] = {}
    rows = []
    for dated in typed_rows(name, text, "price", prices, _RowFields):
        fields = dated.values
        for model in fields.models:
            earlier = first_at.setdefault((model, fields.tier, fields.zone, fields.effective), dated.line)
            if earlier != dated.line or fields.models.count(model) > 1:
                raise dated.error(
                    f"{model} has a price from {fields.effective} in line {earlier} already; "
                    "keep one of them, or give the newer one its own date"
                )
        if ANY_MODEL in fields.models and len(fields.models) > 1:
            raise dated.error(f'"{ANY_MODEL}" stands for every other model; give it a row of its own')
        rows.append(_row(head.part, dated))
    hours = typed_rows(name, text, "capacity", capacity, CapacityFields)
    return rows, [capacity_of(head.part, one) for one in hours]


def _row(part: str, dated: DatedRow[_RowFields]) -> Row:
    fields = dated.values
    cells = _cells(dated, fields.per_million)
    cliffs: list[Cliff] = []
    for cliff in fields.cliffs:
        if cliffs and cliff.above_input_tokens <= cliffs[-1].above_input_tokens:
            raise dated.error("cliffs must ascend by above_input_tokens")
        if cliff.per_million.keys() != fields.per_million.keys():
            raise dated.error(
                "a cliff holds for the whole call, so it needs exactly the meters of per_million: "
                + ", ".join(fields.per_million)
            )
        cliffs.append(Cliff(cliff.above_input_tokens, _cells(dated, cliff.per_million)))
    price = Price(
        id=_row_id(part, fields, cells, cliffs),
        currency=fields.currency,
        effective_ns=(fields.effective - _EPOCH).days * _NS_PER_DAY,
        pico=cells,
        cliffs=tuple(cliffs),
        per_call_pico=parse_pico(fields.per_call),
        source=fields.source,
        remark=fields.remark,
        tier=fields.tier,
        zone=fields.zone,
    )
    facts = ModelFacts(fields.context_tokens, fields.output_tokens_max)
    return Row(part, fields.models, price, fields.effective, fields.source_date, facts, dated.file, dated.line)


def _cells(dated: DatedRow[_RowFields], per_million: dict[str, str]) -> dict[str, int]:
    """Return pico units per unit of each meter."""
    cells = {}
    for meter, text in per_million.items():
        if meter not in ALL_METERS:
            raise dated.error(f"{meter} is not a meter; the meters are: {', '.join(ALL_METERS)}")
        try:
            pico, rest = divmod(parse_pico(text), _UNITS_PER_MILLION)
        except AmountError as error:
            raise dated.error(f"{meter}: {error}") from error
        if rest:
            raise dated.error(
                f"{meter}: {text} per million is finer than 10⁻¹² for one unit; round it to six decimals, "
                "and say in the remark that you did"
            )
        cells[meter] = pico
    return cells


def _row_id(part: str, fields: _RowFields, cells: dict[str, int], cliffs: list[Cliff]) -> str:
    """Hash what the row says, not how it is written: 2.5 and 2.50 are one price.

    What came later and is empty is left out, so that older rows keep the ids that bills name.
    """
    content: dict[str, Any] = {
        "part": part,
        "models": sorted(fields.models),
        "from": fields.effective,
        "currency": fields.currency,
        "pico": cells,
        "cliffs": [{"above_input_tokens": at.above_input_tokens, "pico": at.pico} for at in cliffs],
        "per_call": decimal_text(parse_pico(fields.per_call)),
        "context_tokens": fields.context_tokens,
        "output_tokens_max": fields.output_tokens_max,
        "source": fields.source,
        "source_date": fields.source_date,
        "remark": fields.remark,
    }
    content |= {name: text for name, text in (("tier", fields.tier), ("zone", fields.zone)) if text}
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]
