"""The nodes that share a state: who they are, who is there, and what becomes of one that never comes back.

Rules: a node is its data directory: journals are on its disk, so only it closes what died there. What it has leased stays
reserved while it is away. One whose disk is lost is *forgotten* by a person: then all it had leased counts as spent, for
that is the most that it can have cost.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal_column, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.types import BigInteger

from upeti.control import tables
from upeti.control.ledger import LIVE, Ledger, Peers
from upeti.control.places import Node, NodeError
from upeti.control.store import Store, StoreError

BEAT_S: Final = 1.0
# A node that was not seen for so long is not asked for what it has leased, and no slice is kept small for its workers.
AWAY_S: Final = 3.5


class NodeRow(msgspec.Struct, frozen=True):
    """A node as the state knows it. ``workers`` are those whose journals are not closed."""

    node: str
    address: str
    seen_ns: int
    silent_ms: int  # since it was seen
    workers: int
    leased_pico: dict[str, int]  # budget → what its workers may still spend

    @property
    def is_away(self) -> bool:
        return self.silent_ms > AWAY_S * 1000


class Nodes:
    """The nodes of one state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, node: Node, address: str) -> None:
        """Say that ``node`` is there. Raises ``NodeError`` when another data directory has its name."""
        table = tables.nodes
        with self._store.writing() as connection:
            token = connection.execute(select(table.c.token).where(table.c.node == node.name)).scalar_one_or_none()
            if token is None:
                row = {"node": node.name, "token": node.token, "address": address, "seen_ns": _now(connection)}
                connection.execute(insert(table).values(row))
            elif token != node.token:
                raise NodeError(
                    f"another data directory is the node `{node.name}`: choose another [node] name; when that one is lost "
                    f"for good, `upeti nodes forget {node.name}` gives its name free"
                )
            else:
                values = {"address": address, "seen_ns": _now(connection)}
                connection.execute(update(table).where(table.c.node == node.name).values(values))

    def beat(self, name: str) -> Peers:
        """Say that the node is there still; return who else is."""
        nodes, instances = tables.nodes.c, tables.instances.c
        with self._store.writing_rows() as connection:
            connection.execute(update(tables.nodes).where(nodes.node == name).values(seen_ns=_now(connection)))
            query = (
                select(nodes.node, func.count(instances.instance).label("workers"))
                .outerjoin(tables.instances, (instances.node == nodes.node) & (instances.state == LIVE))
                .where((nodes.node != name) & (_now(connection) - nodes.seen_ns < int(AWAY_S * 10**9)))
                .group_by(nodes.node)
            )
            workers = {row.node: int(row.workers) for row in connection.execute(query)}
        return Peers(frozenset(workers), sum(workers.values()))

    def all(self) -> list[NodeRow]:
        """Return every node, by name."""
        nodes, instances, leases = tables.nodes.c, tables.instances.c, tables.leases.c
        with self._store.engine.connect() as connection:
            query = select(nodes.node, nodes.address, nodes.seen_ns, _now(connection) - nodes.seen_ns)
            rows = connection.execute(query.order_by(nodes.node)).all()
            count = (
                select(instances.node, func.count().label("workers"))
                .where(instances.state == LIVE)
                .group_by(instances.node)
            )
            workers = {row.node: int(row.workers) for row in connection.execute(count)}
            leased: dict[str, dict[str, int]] = {}
            query = select(instances.node, leases.budget, leases.granted_pico, leases.posted_pico)
            for node, budget, granted, posted in connection.execute(query.join_from(tables.leases, tables.instances)):
                sums = leased.setdefault(node, {})
                sums[budget] = sums.get(budget, 0) + max(0, granted - posted)
        return [
            NodeRow(node, address, seen, silent // 10**6, workers.get(node, 0), leased.get(node, {}))
            for node, address, seen, silent in rows
        ]

    def forget(self, name: str) -> dict[str, int]:
        """Give up a node that is lost with its disk; return budget → what now counts as spent.

        Raises ``StoreError`` when there is no such node, or it is there.
        """
        row = next((row for row in self.all() if row.node == name), None)
        if row is None:
            raise StoreError(f"there is no node `{name}`: `upeti nodes` shows them")
        if not row.is_away:
            raise StoreError(f"the node `{name}` is there (seen {row.silent_ms} ms ago): stop it first")
        lost: dict[str, int] = {}
        ledger = Ledger(self._store, name)
        for instance in ledger.instances():
            for budget, left_pico in ledger.give_up(instance).items():
                lost[budget] = lost.get(budget, 0) + left_pico
        with self._store.writing() as connection:
            connection.execute(delete(tables.nodes).where(tables.nodes.c.node == name))
        return lost


def _now(connection: Connection) -> ColumnElement[int]:
    """Return the database's clock in nanoseconds: those of the nodes may differ."""
    if connection.dialect.name == "postgresql":
        seconds: ColumnElement[Any] = literal_column("EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000")
    else:
        seconds = literal_column("(julianday('now') - 2440587.5) * 86400000000000")
    return sql_cast(seconds, BigInteger)
