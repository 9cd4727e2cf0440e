"""Who stands behind a channel, and by what rules a large party is judged: facts from dated files.

Rules: a share is taken by ultimate parent, because that is who can leave. A channel that no row knows is a party of its
own under its own name, and is said to be unknown; nobody is guessed. Files of one's own are read after the shipped
one. The yardsticks (bands of an index, clauses of accounting rules) are data too: code names no clause.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.providers.dated_file import CurrencyCode, DecimalText, Text, read_bytes, rows_of

Side = Literal["suppliers", "customers"]
Scope = Literal["line", "segment", "company"]  # how much of the business a share is a share of

LINE: Final = "line"


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing stands above the rows."""


class _PartyFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    channel: str = ""
    kind: str = ""
    host: str = ""  # ".name" stands for all hosts below name
    effective: datetime.date = msgspec.field(name="from")
    party: Text
    service: str = ""  # what it sells, by its name; "": the party's own
    parent: Text
    source: Text
    source_date: datetime.date
    remark: str = ""


class Place(msgspec.Struct, frozen=True):
    """A channel as the configuration describes it."""

    channel: str
    kind: str = ""  # "" when no configuration says
    host: str = ""


class Standing(msgspec.Struct, frozen=True):
    """Whom a channel is bought from, and who controls them."""

    party: str
    parent: str
    service: str
    source: str  # "" when no row knows the channel
    remark: str = ""


class Parties:
    """Rows in the order in which they were read."""

    def __init__(self, rows: Sequence[_PartyFields]) -> None:
        self._rows = tuple(rows)

    @classmethod
    def load(cls, paths: Iterable[Path | str] = ()) -> Parties:
        """Return the shipped rows with those of ``paths`` after them. Raises ``ConfigError``."""
        rows: list[_PartyFields] = []
        for source, name in _sources("parties.toml", paths):
            for dated in rows_of(name, read_bytes(source), "party", _Head, _PartyFields)[1]:
                if not (dated.values.channel or dated.values.kind or dated.values.host):
                    raise dated.error("it names no channel, kind or host; say at least one of them")
                rows.append(dated.values)
        return cls(rows)

    def standing(self, place: Place, at_date: datetime.date) -> Standing:
        """Return who stands behind a channel on a day: the row that says most about it, of those the newest."""
        best: tuple[tuple[int, datetime.date, int], _PartyFields] | None = None
        for number, row in enumerate(self._rows):
            weight = _weight(row, place)
            if weight and row.effective <= at_date:
                rank = (weight, row.effective, number)
                best = (rank, row) if best is None or rank > best[0] else best
        if best is None:
            return Standing(place.channel, place.channel, place.channel, "")
        row = best[1]
        return Standing(row.party, row.parent, row.service or row.party, row.source, row.remark)


def _weight(row: _PartyFields, place: Place) -> int:
    """Return how much of a place a row names: 0 when it is about another one."""
    below = row.host.startswith(".") and place.host.lower().endswith(row.host)
    for named, same in (
        (row.channel, row.channel == place.channel),
        (row.kind, row.kind == place.kind),
        (row.host, below or row.host == place.host.lower()),
    ):
        if named and not same:
            return 0
    return 4 * bool(row.channel) + 2 * bool(row.host) + bool(row.kind)


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an index is called from a value on: ``at_least`` includes it, ``above`` does not."""

    name: Text
    at_least: int | None = None
    above: int | None = None
    effective: datetime.date = msgspec.field(name="from")
    source: Text
    source_date: datetime.date
    remark: str = ""

    def holds(self, hhi: Fraction) -> bool:
        return (self.at_least is None or hhi >= self.at_least) and (self.above is None or hhi > self.above)


class Clause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sentence of an accounting rule about one large party."""

    id: Text
    side: Side
    scope: Scope  # whose total the share is of
    percent: DecimalText = ""  # "" where the rule leaves it to judgement
    effective: datetime.date = msgspec.field(name="from")
    says: Text
    source: Text
    source_date: datetime.date
    remark: str = ""


def bands() -> list[Band]:
    """Return the bands of an index, lowest first."""
    source = files("upeti.providers") / "facts" / "hhi_bands.toml"
    return [dated.values for dated in rows_of(source.name, read_bytes(source), "band", _Head, Band)[1]]


def clauses(side: Side) -> list[Clause]:
    """Return the clauses about one side."""
    source = files("upeti.providers") / "facts" / "major_party_clauses.toml"
    rows = rows_of(source.name, read_bytes(source), "clause", _Head, Clause)[1]
    return [dated.values for dated in rows if dated.values.side == side]


class Denominator(msgspec.Struct, frozen=True):
    """What a whole amounts to in one month: revenue for customers, cost for suppliers."""

    name: str
    scope: Scope
    month: str  # "2026-10"
    currency: str
    amount_pico: int
    source: str


class _DenominatorFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Text
    scope: Literal["segment", "company"]
    side: Side = "customers"
    month: Annotated[str, Meta(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
    amount: DecimalText
    currency: CurrencyCode
    source: Text
    source_date: datetime.date
    remark: str = ""


def denominators(path: Path | str, side: Side) -> list[Denominator]:
    """Return the rows of a file of one's own that are about one side. Raises ``ConfigError``."""
    found: list[Denominator] = []
    first_at: dict[tuple[str, str, str], int] = {}
    for dated in rows_of(str(path), read_bytes(Path(path)), "denominator", _Head, _DenominatorFields)[1]:
        row = dated.values
        if row.name == LINE:
            raise dated.error(f'"{LINE}" is what went through Upeti, and is summed up; choose another name')
        if not Decimal(row.amount):
            raise dated.error("the amount is zero: no share of it can be taken; leave the row out until it is known")
        earlier = first_at.setdefault((row.side, row.name, row.month), dated.line)
        if earlier != dated.line:
            raise dated.error(f"{row.name} has an amount for {row.month} in line {earlier} already; keep one of them")
        if row.side == side:
            amount_pico = parse_pico(row.amount)
            found.append(Denominator(row.name, row.scope, row.month, row.currency, amount_pico, row.source))
    scopes: dict[str, str] = {}
    for one in found:
        if scopes.setdefault(one.name, one.scope) != one.scope:
            raise ConfigError(f"{path}: {one.name} is a {scopes[one.name]} and a {one.scope}; give them two names")
    return found


def _sources(shipped: str, paths: Iterable[Path | str]) -> list[tuple[Path | Traversable, str]]:
    first = files("upeti.providers") / "facts" / shipped
    return [(first, first.name), *((Path(path), str(path)) for path in paths)]
