"""Enrichments in the feed's store: versions, the calls that made them, tries that gave nothing yet.

Rules: one answer is one transaction: the call, its versions, and what is still tried change together, so the sum over
versions and open tries is the sum over calls, whenever the worker dies. A version is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from upeti.core.amount import parse_pico
from upeti.feed import tables
from upeti.feed.enrichment import UNKNOWN_COST, Enrichment, Provenance, Safety, Source
from upeti.feed.items import Item
from upeti.feed.store import FeedStore
from upeti.feed.worth import Spent

_VERSIONS: Final = tables.enrichments
_CALLS: Final = tables.enrichment_calls
_TRIES: Final = tables.enrichment_tries
_IN_MAX: Final = 500  # values in one statement; SQLite takes 32,766


class Call(NamedTuple):
    """One call that the gateway answered."""

    call_id: str
    at_ns: int
    route: str
    outcome: str
    items: int
    cost: str
    currency: str


class Tried(NamedTuple):
    """What was tried for an item without a result."""

    item: str
    route: str
    digest: str
    tries: int
    cost: str
    currency: str
    error: str


class EnrichmentStore:
    """The enrichments of one tenant."""

    def __init__(self, store: FeedStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant
        self._insert = sqlite.insert if store.engine.dialect.name == "sqlite" else postgresql.insert

    def record(self, call: Call | None, versions: Sequence[Enrichment], tried: Sequence[Tried] = ()) -> None:
        """Write what one call came to, all or nothing. Open tries of items that got a version are closed."""
        with self._store.writing() as connection:
            if call is not None:
                row = {"tenant": self._tenant, **call._asdict()}
                connection.execute(self._insert(_CALLS).on_conflict_do_nothing(), [row])
            for one in versions:
                where = (_TRIES.c.tenant == self._tenant) & (_TRIES.c.item == one.item) & (_TRIES.c.route == one.route)
                connection.execute(delete(_TRIES).where(where))
            if versions:
                rows = [self._row(one) for one in versions]
                connection.execute(self._insert(_VERSIONS).on_conflict_do_nothing(), rows)
            if tried:
                self._put_tries(connection, tried)

    def _put_tries(self, connection: Connection, tried: Sequence[Tried]) -> None:
        rows = [{"tenant": self._tenant, **one._asdict()} for one in tried]
        statement = self._insert(_TRIES)
        keys = ["tenant", "item", "route"]
        changes = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes), rows)

    def wanting(self, items: Iterable[Item], prompt_version: str, route: str) -> list[Item]:
        """Return those of ``items`` whose present text has no version by this prompt and route."""
        given = list(items)
        known: set[tuple[str, str]] = set()
        with self._store.engine.connect() as connection:
            for start in range(0, len(given), _IN_MAX):
                names = [item.id for item in given[start : start + _IN_MAX]]
                query = select(_VERSIONS.c.item, _VERSIONS.c.digest).where(
                    (_VERSIONS.c.tenant == self._tenant)
                    & _VERSIONS.c.item.in_(names)
                    & (_VERSIONS.c.prompt_version == prompt_version)
                    & (_VERSIONS.c.route == route)
                )
                known.update((row[0], row[1]) for row in connection.execute(query))
        return [item for item in given if (item.id, item.digest) not in known]

    def of_text(self, digest: str, prompt_version: str, route: str) -> Enrichment | None:
        """Return a version of any item with the same text, made by the same prompt and route: it need not be bought again."""
        query = select(_VERSIONS).where(
            (_VERSIONS.c.tenant == self._tenant)
            & (_VERSIONS.c.digest == digest)
            & (_VERSIONS.c.prompt_version == prompt_version)
            & (_VERSIONS.c.route == route)
            & (_VERSIONS.c.call_id != "")
        )
        with self._store.engine.connect() as connection:
            row = connection.execute(query.order_by(_VERSIONS.c.at_ns).limit(1)).mappings().first()
        return None if row is None else _enrichment(row)

    def tried(self, route: str) -> dict[str, Tried]:
        """Return open tries by item."""
        query = select(_TRIES).where((_TRIES.c.tenant == self._tenant) & (_TRIES.c.route == route))
        with self._store.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return {row["item"]: Tried(*(row[name] for name in Tried._fields)) for row in rows}

    def versions(self, item: str) -> list[Enrichment]:
        """Return every version of one item, oldest first."""
        where = (_VERSIONS.c.tenant == self._tenant) & (_VERSIONS.c.item == item)
        query = select(_VERSIONS).where(where).order_by(_VERSIONS.c.at_ns, _VERSIONS.c.version)
        with self._store.engine.connect() as connection:
            return [_enrichment(row) for row in connection.execute(query).mappings()]

    def latest(self, since_ns: int = 0) -> dict[str, dict[Source, Enrichment]]:
        """Return the newest version of each item and source that was made at or after ``since_ns``.

        A version of a text that has changed since is still the newest until a newer one comes; whoever needs safety
        compares ``digest`` with the item's.
        """
        where = (_VERSIONS.c.tenant == self._tenant) & (_VERSIONS.c.at_ns >= since_ns)
        query = select(_VERSIONS).where(where).order_by(_VERSIONS.c.at_ns, _VERSIONS.c.version)
        found: dict[str, dict[Source, Enrichment]] = {}
        with self._store.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                one = _enrichment(row)
                found.setdefault(one.item, {})[one.source] = one
        return found

    def spent(self, pairs: set[tuple[str, str]], from_ns: int, to_ns: int) -> tuple[dict[str, Spent], Spent, set[str]]:
        """Return what versions cost by source: those in ``pairs`` (item, version) and those made from ``from_ns`` up to, not
        including, ``to_ns``; then what all that were made before cost that are not among them; then all currencies.
        """
        found: dict[str, Spent] = {}
        earlier = Spent(0, 0)
        currencies: set[str] = set()
        columns = (
            *(_VERSIONS.c.item, _VERSIONS.c.version, _VERSIONS.c.source),
            *(_VERSIONS.c.cost, _VERSIONS.c.currency, _VERSIONS.c.at_ns),
        )
        with self._store.engine.connect() as connection:
            for item, version, source, cost, currency, at_ns in connection.execute(
                select(*columns).where(_VERSIONS.c.tenant == self._tenant)
            ):
                unknown = cost == UNKNOWN_COST
                pico = 0 if unknown else parse_pico(cost)
                if from_ns <= at_ns < to_ns or (item, version) in pairs:
                    found[source] = _plus(found.get(source, Spent(0, 0)), pico, unknown)
                elif at_ns < from_ns and (pico or unknown):
                    earlier = _plus(earlier, pico, unknown)
                else:
                    continue
                if pico:
                    currencies.add(currency)
        return found, earlier, currencies

    def calls(self) -> list[Call]:
        """Return every call that was answered, oldest first."""
        query = select(_CALLS).where(_CALLS.c.tenant == self._tenant).order_by(_CALLS.c.at_ns, _CALLS.c.call_id)
        with self._store.engine.connect() as connection:
            return [Call(*(row[name] for name in Call._fields)) for row in connection.execute(query).mappings()]

    def balance(self) -> tuple[int, int]:
        """Return in pico what versions and open tries cost, and what the calls cost: the two are the same.

        What is unknown counts as nothing on both sides.
        """
        ours = 0
        with self._store.engine.connect() as connection:
            for table in (_VERSIONS, _TRIES):
                for (cost,) in connection.execute(select(table.c.cost).where(table.c.tenant == self._tenant)):
                    ours += 0 if cost == UNKNOWN_COST else parse_pico(cost)
        return ours, sum(0 if call.cost == UNKNOWN_COST else parse_pico(call.cost) for call in self.calls())

    def count(self) -> int:
        """Return how many versions there are."""
        query = select(func.count()).select_from(_VERSIONS).where(_VERSIONS.c.tenant == self._tenant)
        with self._store.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def _row(self, one: Enrichment) -> dict[str, Any]:
        vector = None if one.embedding is None else np.asarray(one.embedding, "<f4").tobytes()
        return {
            "tenant": self._tenant,
            "item": one.item,
            "version": one.version,
            "source": one.source.value,
            "route": one.route,
            "digest": one.digest,
            "prompt_version": one.provenance.prompt_version,
            "tags": list(one.tags),
            "quality": one.quality,
            "safety": one.safety.value,
            "embedding": vector,
            "call_id": one.provenance.call_id,
            "channel": one.provenance.channel,
            "model": one.provenance.model,
            "cost": one.cost,
            "currency": one.currency,
            "at_ns": one.at_ns,
        }


def _plus(was: Spent, pico: int, unknown: bool) -> Spent:
    return Spent(was.pico + pico, was.versions + 1, was.unknown + unknown)


def _enrichment(row: Mapping[str, Any] | Any) -> Enrichment:
    vector = row["embedding"]
    return Enrichment(
        row["item"],
        row["version"],
        tuple(row["tags"]),
        row["quality"],
        Safety(row["safety"]),
        None if vector is None else tuple(np.frombuffer(vector, "<f4").tolist()),
        Provenance(row["call_id"], row["channel"], row["model"], row["prompt_version"]),
        row["cost"],
        row["currency"],
        row["at_ns"],
        Source(row["source"]),
        row["route"],
        row["digest"],
    )
