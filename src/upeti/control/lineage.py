"""Lineage: what a right, a call or a data set touches, and what a model rests on. Both ways, by joins.

A right is judged anew from where each row came: the state has every row's channel, contract, tenant and time of capture.
Rows of one origin differ in their time only, and a decision changes with it at few moments; so whole spans are judged at
their ends and at those moments, and only a span that is not clean is looked at row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, func, select

from upeti.control.consents import Consent
from upeti.control.store import Store, StoreError
from upeti.control.tables_capture import pairs
from upeti.control.tables_lineage import dataset_rows, datasets, model_datasets, models
from upeti.rights.permit import Permit, permit
from upeti.rights.terms import Origin, Terms

_LISTED_MAX: Final = 20  # of calls or pairs that are named; all are counted


class Objection(msgspec.Struct, frozen=True):
    """Why rows of a data set may no longer be used for a purpose."""

    dataset: str
    what: str  # the clause, grant, consent or channel that it hangs on
    why: str
    rows: int


# -- judging
# -------------------------------------------------------------------------------------------------------------


def objections(
    store: Store, terms: Terms, consents: Mapping[str, Consent], dataset: str, purpose: str, at_ns: int
) -> list[Objection]:
    """Return why a data set may not be used for ``purpose`` at ``at_ns``; nothing when every row may be."""
    found: list[Objection] = []
    dated = _capture_moments(terms)
    for channel, contract, tenant, model, rows, first_ns, last_ns in _origins(store, dataset):
        consent = consents.get(tenant)
        if consent is None or not consent.covers(purpose):
            found.append(Objection(dataset, tenant, f"the tenant `{tenant}` has no consent in force for it", rows))
            continue
        moments = _within(dated, first_ns, last_ns)
        judged = [permit(terms, Origin(channel, contract, one, tenant, model), purpose, at_ns) for one in moments]
        if all(one.allowed for one in judged):
            continue
        found += _by_row(store, terms, dataset, (channel, contract, tenant, model), purpose, at_ns)
    return found


def duties(store: Store, terms: Terms, dataset: str, purpose: str, at_ns: int) -> set[str]:
    """Return the duties that come with using a data set for ``purpose``."""
    found: set[str] = set()
    dated = _capture_moments(terms)
    for channel, contract, tenant, model, _, first_ns, last_ns in _origins(store, dataset):
        for one in _within(dated, first_ns, last_ns):
            found.update(permit(terms, Origin(channel, contract, one, tenant, model), purpose, at_ns).duties)
    return found


def _origins(store: Store, dataset: str) -> list[Any]:
    columns = dataset_rows.c
    origin = (columns.channel, columns.contract, columns.tenant, columns.model)
    query = (
        select(*origin, func.count(), func.min(columns.captured_ns), func.max(columns.captured_ns))
        .where(columns.dataset == dataset, columns.pair_id != "")
        .group_by(*origin)
        .order_by(*origin)
    )
    with store.engine.connect() as connection:
        return list(connection.execute(query).all())


def _capture_moments(terms: Terms) -> set[int]:
    """Moments at which a decision about what was captured then may change."""
    dated = {one for binding in terms.bindings for one in (binding.from_ns, binding.until_ns)}
    dated |= {one for clause in terms.clauses for one in (clause.from_ns, clause.until_ns)}
    dated |= {grant.captured_from_ns for grant in terms.grants}
    return {near for one in dated if one for near in (one - 1, one)}


def _within(dated: set[int], first_ns: int, last_ns: int) -> set[int]:
    """Return the moments of a span at which it is judged: its ends, and where a decision may change."""
    return {first_ns, last_ns, *(one for one in dated if first_ns < one <= last_ns)}


def _by_row(
    store: Store, terms: Terms, dataset: str, origin: tuple[str, str, str, str], purpose: str, at_ns: int
) -> Iterable[Objection]:
    columns = dataset_rows.c
    channel, contract, tenant, model = origin
    query = (
        select(columns.captured_ns, func.count())
        .where(columns.dataset == dataset, columns.pair_id != "")
        .where(columns.channel == channel, columns.contract == contract)
        .where(columns.tenant == tenant, columns.model == model)
        .group_by(columns.captured_ns)
    )
    counts: dict[tuple[str, str], int] = {}
    with store.engine.connect() as connection:
        for captured_ns, rows in connection.execute(query):
            judged = permit(terms, Origin(channel, contract, captured_ns, tenant, model), purpose, at_ns)
            if not judged.allowed:
                key = (_hangs_on(judged), judged.why)
                counts[key] = counts.get(key, 0) + rows
    return [Objection(dataset, what, why, rows) for (what, why), rows in counts.items()]


def _hangs_on(judged: Permit) -> str:
    return judged.clause or judged.contract or judged.channel


# -- both ways
# -------------------------------------------------------------------------------------------------------------


class Trace(msgspec.Struct):
    """What hangs together with one thing."""

    kind: str  # "model", "dataset", "clause", "grant", "consent", "contract", "call"
    id: str
    models: list[dict[str, Any]] = msgspec.field(default_factory=list)
    datasets: list[dict[str, Any]] = msgspec.field(default_factory=list)
    clauses: dict[str, int] = msgspec.field(default_factory=dict)  # → rows
    contracts: dict[str, int] = msgspec.field(default_factory=dict)
    grants: dict[str, int] = msgspec.field(default_factory=dict)
    consents: dict[str, int] = msgspec.field(default_factory=dict)
    channels: dict[str, int] = msgspec.field(default_factory=dict)
    rows: int = 0
    own_rows: int = 0
    erased_rows: int = 0  # whose pair was erased since
    pairs: int = 0  # captured pairs, in a data set or not
    calls: list[str] = msgspec.field(default_factory=list)  # some of them


_BY_COLUMN: Final = {"clause": "clause", "grant": "grant", "consent": "consent", "contract": "contract"}


def trace(store: Store, terms: Terms, name: str) -> Trace:
    """Return everything that a model, data set, clause, grant, consent, contract or call hangs together with.

    Raises ``StoreError`` when nothing has that name.
    """
    kind, ids = _kind(store, terms, name)
    made = Trace(kind, name if kind != "dataset" and kind != "model" else ids[0])
    row = dataset_rows.c
    where: ColumnElement[bool]
    if kind == "model":
        used = select(model_datasets.c.dataset).where(model_datasets.c.model == ids[0])
        where = row.dataset.in_(used)
    elif kind == "dataset":
        where = row.dataset == ids[0]
    elif kind == "call":
        where = (row.call_id == name) | (row.pair_id == name)
    else:
        where = row[_BY_COLUMN[kind]] == name
    _fill(store, made, where, ids)
    _count_pairs(store, made, kind, name, where)
    return made


def _kind(store: Store, terms: Terms, name: str) -> tuple[str, list[str]]:
    with store.engine.connect() as connection:
        for kind, table, order in (
            ("model", models, models.c.registered_ns),
            ("dataset", datasets, datasets.c.version),
        ):
            query = select(table.c.id).where((table.c.id == name) | (table.c.name == name)).order_by(order.desc())
            found = list(connection.execute(query).scalars())
            if found:
                return kind, found[:1]
        if terms.clause(name) is not None:
            return "clause", []
        if terms.contract(name) is not None:
            return "contract", []
        if any(one.id == name for one in terms.grants):
            return "grant", []
        for kind, column in (("consent", pairs.c.consent), ("call", pairs.c.call_id), ("call", pairs.c.pair_id)):
            if connection.execute(select(pairs.c.pair_id).where(column == name).limit(1)).first() is not None:
                return kind, []
        for kind in ("clause", "grant", "consent"):  # of files that are gone
            query = select(dataset_rows.c.number).where(dataset_rows.c[kind] == name).limit(1)
            if connection.execute(query).first() is not None:
                return kind, []
    raise StoreError(
        f"nothing here is named `{name}`: give a model, a data set, a clause, a grant, a consent, a contract, a call or a pair"
    )


def _fill(store: Store, made: Trace, where: ColumnElement[bool], ids: list[str]) -> None:
    row = dataset_rows.c
    joined = dataset_rows.outerjoin(pairs, pairs.c.pair_id == row.pair_id)
    counts = select(
        func.count(),
        func.count().filter(row.pair_id == ""),
        func.count().filter(pairs.c.erased_ns > 0),
    ).select_from(joined)
    with store.engine.connect() as connection:
        made.rows, made.own_rows, made.erased_rows = map(int, connection.execute(counts.where(where)).one())
        for name in ("clause", "contract", "grant", "consent", "channel"):
            query = (
                select(row[name], func.count()).where(where, row[name] != "").group_by(row[name]).order_by(row[name])
            )
            getattr(made, f"{name}s").update({value: int(count) for value, count in connection.execute(query)})
        touched = select(row.dataset, func.count()).where(where).group_by(row.dataset)
        by_dataset = {dataset: int(count) for dataset, count in connection.execute(touched)}
        named = set(by_dataset) | ({*ids} if made.kind == "dataset" else set())
        query = select(datasets).where(datasets.c.id.in_(named)).order_by(datasets.c.id)
        for found in connection.execute(query).mappings():
            shown = {name: found[name] for name in ("id", "purpose", "rows")}
            made.datasets.append(shown | {"touched": by_dataset.get(found["id"], 0)})
        used = select(model_datasets.c.model).where(model_datasets.c.dataset.in_(named))
        hit = models.c.id.in_(ids) if made.kind == "model" else models.c.id.in_(used)
        for found in connection.execute(select(models).where(hit).order_by(models.c.id)).mappings():
            made.models.append({name: found[name] for name in ("id", "purpose", "stage", "channel", "model")})


def _count_pairs(store: Store, made: Trace, kind: str, name: str, where: ColumnElement[bool]) -> None:
    if kind in _BY_COLUMN:
        captured = pairs.c[_BY_COLUMN[kind]] == name
    elif kind == "call":
        captured = (pairs.c.call_id == name) | (pairs.c.pair_id == name)
    else:
        captured = pairs.c.pair_id.in_(select(dataset_rows.c.pair_id).where(where))
    some = select(pairs.c.call_id).where(captured).order_by(pairs.c.at_ns.desc()).limit(_LISTED_MAX)
    with store.engine.connect() as connection:
        made.pairs = int(connection.execute(select(func.count()).select_from(pairs).where(captured)).scalar_one())
        made.calls = list(connection.execute(some).scalars())
