"""Files of terms: contracts and clauses as dated rows, those that ship and those of one's own.

Rules: a clause lists the purposes that it was read to allow, ask or deny; what it does not list it says nothing of. The
shipped files allow nothing by themselves, because nobody has reviewed them for you. A file of one's own may name who
reviewed a row. Serving can only be denied: whoever configures a channel says himself that he may call it. No row of one
file replaces a row of another.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from upeti.providers.dated_file import DatedRow, Text, read_bytes, tables_of
from upeti.rights.terms import EVERY_CONTRACT, PURPOSES, SERVE, Clause, Contract, Decision, Review

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
Duty = Annotated[str, Meta(pattern=r"^[a-z_]+(:.+)?$")]

OWN_RULE: Final = "own rule"


class _ContractFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: Id
    party: Text
    family: Id
    document: Text
    version: Text
    effective: datetime.date = msgspec.field(name="from")
    until: datetime.date | None = None
    source: Text
    source_date: datetime.date
    hosts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    includes: tuple[Id, ...] = ()
    remark: str = ""


class _ClauseFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: Id
    contract: Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9_.:/-]{1,128})$")]
    section: str = ""
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    quote: str = ""
    text_sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    source: Text
    source_date: datetime.date
    effective: datetime.date | None = msgspec.field(default=None, name="from")
    until: datetime.date | None = None
    duties: tuple[Duty, ...] = ()
    unless_authorized: bool = False
    remark: str = ""
    reviewed_by: str = ""
    reviewed_at: datetime.date | None = None
    review_why: str = ""


_TABLES: Final = {"contract": _ContractFields, "clause": _ClauseFields}


class Facts(msgspec.Struct, frozen=True):
    """What files of terms say."""

    contracts: tuple[Contract, ...]
    clauses: tuple[Clause, ...]
    reviews: tuple[Review, ...]  # those that files of one's own name


def load(paths: Iterable[Path | str] = ()) -> Facts:
    """Return the shipped contracts and clauses with those of ``paths``. Raises ``ConfigError``."""
    return _facts(_sources(paths))


def load_alone(path: Path) -> Facts:
    """Return what one file says, be it a shipped one or not. Raises ``ConfigError``."""
    return _facts([(path, str(path), True)])


def _facts(sources: Iterable[tuple[Path | Traversable, str, bool]]) -> Facts:
    contracts: dict[str, tuple[DatedRow[_ContractFields], Contract]] = {}
    rows: list[tuple[DatedRow[_ClauseFields], bool]] = []
    for source, name, own in sources:
        found = tables_of(name, read_bytes(source), _TABLES)
        for dated in found["contract"]:
            _once(dated, contracts)
            contracts[dated.values.id] = (dated, _contract(dated.values))
        rows += [(dated, own) for dated in found["clause"]]
    for dated, contract in contracts.values():
        for included in contract.includes:
            if included not in contracts:
                raise dated.error(f"there is no contract `{included}` to include; name one that a file of terms has")
    clauses: dict[str, tuple[DatedRow[_ClauseFields], Clause]] = {}
    reviews: list[Review] = []
    for row, own in rows:
        _once(row, clauses)
        clause = _clause(row, own, {name: contract for name, (_, contract) in contracts.items()})
        clauses[clause.id] = (row, clause)
        if row.values.reviewed_by or row.values.reviewed_at:
            reviews.append(_review(row, own, clause))
    return Facts(
        tuple(contract for _, contract in contracts.values()),
        tuple(clause for _, clause in clauses.values()),
        tuple(reviews),
    )


def _sources(paths: Iterable[Path | str]) -> Iterator[tuple[Path | Traversable, str, bool]]:
    shipped = files("upeti.providers") / "facts" / "terms"
    for source in sorted(shipped.iterdir(), key=lambda one: one.name):
        if source.name.endswith(".toml"):
            yield source, source.name, False
    for path in paths:
        yield Path(path), str(path), True


def _once(dated: DatedRow[Any], known: Mapping[str, tuple[DatedRow[Any], object]]) -> None:
    earlier = known.get(dated.values.id)
    if earlier is not None:
        place = f"{earlier[0].file}:{earlier[0].line}"
        raise dated.error(f"`{dated.values.id}` is there already in {place}; give this row an id of its own")


def _contract(row: _ContractFields) -> Contract:
    return Contract(
        id=row.id,
        party=row.party,
        family=row.family,
        document=row.document,
        version=row.version,
        from_ns=day_ns(row.effective),
        until_ns=day_ns(row.until) if row.until else 0,
        source=row.source,
        hosts=row.hosts,
        kinds=row.kinds,
        includes=row.includes,
        remark=row.remark,
    )


def _clause(dated: DatedRow[_ClauseFields], own: bool, contracts: dict[str, Contract]) -> Clause:
    row = dated.values
    contract = contracts.get(row.contract)
    if contract is None and not (own and row.contract == EVERY_CONTRACT):
        raise dated.error(f"there is no contract `{row.contract}`; add a [[contract]] with that id, or correct it")
    if contract is None and (row.allow or row.unless_authorized):
        raise dated.error("a rule for every contract can ask and deny, not allow; name one contract, or deny")
    return Clause(
        id=row.id,
        contract=row.contract,
        party=contract.party if contract is not None else OWN_RULE,
        section=row.section,
        document=contract.document if contract is not None else OWN_RULE,
        version=contract.version if contract is not None else "",
        decisions=_decisions(dated),
        quote=row.quote,
        text_sha256=row.text_sha256 or (hashlib.sha256(row.quote.encode()).hexdigest() if row.quote else ""),
        source=row.source,
        source_date=row.source_date.isoformat(),
        from_ns=day_ns(row.effective) if row.effective else 0,
        until_ns=day_ns(row.until) if row.until else 0,
        duties=row.duties,
        unless_authorized=row.unless_authorized,
        remark=row.remark,
    )


def _decisions(dated: DatedRow[_ClauseFields]) -> dict[str, Decision]:
    row = dated.values
    found: dict[str, Decision] = {}
    for decision, purposes in ((Decision.ALLOW, row.allow), (Decision.ASK, row.ask), (Decision.DENY, row.deny)):
        for purpose in purposes:
            if purpose not in PURPOSES:
                raise dated.error(f"`{purpose}` is no purpose; there are: {', '.join(sorted(PURPOSES))}")
            if purpose in found:
                raise dated.error(f"`{purpose}` stands in two lists; a clause decides each purpose once")
            if purpose == SERVE and decision is not Decision.DENY:
                raise dated.error("`serve` can only be denied: who configures a channel says that he may call it")
            found[purpose] = decision
    if not found:
        raise dated.error("it decides nothing; list purposes under allow, ask or deny")
    return found


def _review(dated: DatedRow[_ClauseFields], own: bool, clause: Clause) -> Review:
    row = dated.values
    if not own:
        raise dated.error("a shipped row names no reviewer: nobody has reviewed it for its user")
    if not row.reviewed_by or row.reviewed_at is None or not row.review_why:
        raise dated.error("a review is reviewed_by, reviewed_at and review_why; give all three, or none")
    digest = hashlib.sha256(f"{clause.id}\0{row.reviewed_at}".encode()).hexdigest()[:20]
    return Review(
        id=f"rev_{digest}",
        clause=clause.id,
        digest=clause.digest,
        decisions=clause.decisions,
        by=row.reviewed_by,
        why=row.review_why,
        at_ns=day_ns(row.reviewed_at),
    )


def day_ns(day: datetime.date) -> int:
    """Return the first moment of a day, UTC, in nanoseconds since 1970."""
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()) * 10**9
