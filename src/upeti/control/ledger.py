"""Leases in the state: each batch of words is one transaction, and only what it made durable is told.

The arithmetic is ``money/budget``; here its numbers are read, changed and written back under locks of their
rows: first the instances', then the budgets', each in the order of the ids, so that nobody waits for who waits
for him; a lease is only touched by who has locked its budget. A budget is known by its id alone; which calls it
is for, and what its limit is, comes from the configuration and the keys. Words of an instance that is closed
change nothing: its journal has been read to the end. An instance belongs to a node, whose disk has its journal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from upeti.control import tables
from upeti.control.store import Store, insert_new
from upeti.money.budget import Budget, Lease

LIVE: Final = "live"
CLOSED: Final = "closed"


class Hello(msgspec.Struct, frozen=True):
    """An instance begins, or connects again; ``leases`` is budget → (left, posted) as it knows them."""

    instance: str
    worker: int
    pid: int
    process: str
    leases: Mapping[str, tuple[int, int]]


class Ask(msgspec.Struct, frozen=True):
    """An instance needs more. Not ``final``: it can wait for what others give back. ``link`` is the connection that it
    came on.
    """

    instance: str
    budget: str
    need_pico: int
    posted_pico: int
    final: bool
    link: int = 0


class Return(msgspec.Struct, frozen=True):
    """An instance gives back, or only says what it has posted. ``recalled``: it was asked to."""

    instance: str
    budget: str
    amount_pico: int
    posted_pico: int
    recalled: bool = False


class Granted(msgspec.Struct, frozen=True):
    """What came of an ask. ``holders`` or ``nodes`` are not empty when nothing was granted yet: these workers of
    this node, and those of these other nodes, may have what is needed.
    """

    amount_pico: int
    left_pico: int
    limit_pico: int
    holders: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Instance(msgspec.Struct, frozen=True):
    """A worker process whose leases are not closed."""

    instance: str
    worker: int
    pid: int
    process: str


class BudgetRow(msgspec.Struct, frozen=True):
    """A budget as it stands."""

    id: str
    limit_pico: int
    spent_pico: int
    leased_pico: int


class Peers(msgspec.Struct, frozen=True):
    """The other nodes that are there, and how many workers they have together."""

    nodes: frozenset[str] = frozenset()
    workers: int = 0


Word = Hello | Ask | Return


class Ledger:
    """The budgets and leases of a state, and one node's instances."""

    def __init__(self, store: Store, node: str = "") -> None:
        self._store = store
        self._node = node
        self.peers = Peers()  # as last seen; only how much is granted at once and who is asked depend on it

    def apply(self, words: Sequence[Word], connected: Collection[str]) -> list[Granted | bool]:
        """Take ``words`` in order in one transaction; return ``Granted`` for an ask, else whether it was
        taken.

        ``connected`` are the instances of this node that can be asked to give back.
        """
        with self._store.writing_rows() as connection:
            batch = _Batch(connection, words, self._node, self.peers)
            answers = [batch.take(word, connected) for word in words]
            batch.write()
        return answers

    def set_limits(self, limits_pico: Mapping[str, int]) -> None:
        """Make budgets, or change their limits. What was spent stays."""
        table = tables.budgets
        with self._store.writing_rows() as connection:
            known = {row.id: row.limit_pico for row in connection.execute(select(table.c.id, table.c.limit_pico))}
            fresh = [
                {"id": budget, "limit_pico": limit, "spent_pico": 0}
                for budget, limit in sorted(limits_pico.items())
                if budget not in known
            ]
            changed = [
                {"at": budget, "to": limit}
                for budget, limit in sorted(limits_pico.items())
                if known.get(budget, limit) != limit
            ]
            insert_new(connection, table, fresh)
            if changed:
                statement = update(table).where(table.c.id == bindparam("at")).values(limit_pico=bindparam("to"))
                connection.execute(statement, changed)

    def close(self, instance: Instance, posted_pico: Mapping[str, int]) -> None:
        """End an instance that is dead: its journal says what it posted, the rest of its leases comes back.

        Done twice, the second time changes nothing.
        """
        with self._store.writing_rows() as connection:
            _close(connection, instance, posted_pico, self._node)

    def give_up(self, instance: Instance) -> dict[str, int]:
        """End an instance whose journal is lost: all that it had leased counts as spent. Return budget → that."""
        table = tables.leases
        query = select(table.c.budget, table.c.granted_pico, table.c.posted_pico)
        with self._store.writing_rows() as connection:
            rows = connection.execute(query.where(table.c.instance == instance.instance)).all()
            _close(
                connection, instance, {row.budget: max(row.granted_pico, row.posted_pico) for row in rows}, self._node
            )
        return {row.budget: max(0, row.granted_pico - row.posted_pico) for row in rows}

    def instances(self) -> list[Instance]:
        """Return this node's instances that are not closed."""
        table = tables.instances
        # Without a node: from before there were any, which was on this disk.
        where = (table.c.state == LIVE) & table.c.node.in_((self._node, ""))
        query = select(table.c.instance, table.c.worker, table.c.pid, table.c.process).where(where)
        with self._store.engine.connect() as connection:
            return [Instance(*row) for row in connection.execute(query)]

    def closed_instances(self) -> set[str]:
        """Return the names of all instances whose journal was read to the end."""
        query = select(tables.instances.c.instance).where(tables.instances.c.state == CLOSED)
        with self._store.engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def budgets(self) -> list[BudgetRow]:
        """Return every budget as it stands, by id."""
        with self._store.engine.connect() as connection:
            names = connection.execute(select(tables.budgets.c.id).order_by(tables.budgets.c.id)).scalars().all()
            loaded = _load(connection, names, lock=False)
        return [
            BudgetRow(name, loaded[name].limit_pico, loaded[name].spent_pico, loaded[name].leased_pico)
            for name in names
        ]


class _Batch:
    """The rows that one batch of words touches, as budgets, and what of them changed."""

    def __init__(self, connection: Connection, words: Sequence[Word], node: str, peers: Peers) -> None:
        self._connection = connection
        self._node = node
        self._peers = peers
        self._states = _states(connection, {word.instance for word in words})
        names: set[str] = set()
        for word in words:
            names.update(word.leases if isinstance(word, Hello) else (word.budget,))
        self._budgets = _load(connection, names)
        self._before = deepcopy(self._budgets)

    def take(self, word: Word, connected: Collection[str]) -> Granted | bool:
        if isinstance(word, Hello):
            return self._hello(word)
        if self._states.get(word.instance) != LIVE:
            return Granted(0, 0, 0) if isinstance(word, Ask) else False
        budget = self._budgets.get(word.budget)
        if budget is None:
            return Granted(0, 0, 0) if isinstance(word, Ask) else False
        budget.report(word.instance, word.posted_pico)
        if isinstance(word, Return):
            budget.give_back(word.instance, word.amount_pico)
            return True
        holders: tuple[str, ...] = ()
        nodes: tuple[str, ...] = ()
        amount_pico = 0
        if budget.rest_pico < word.need_pico and not word.final:
            others = [name for name, lease in budget.leases.items() if lease.left_pico and name != word.instance]
            holders = tuple(name for name in others if name in connected)
            nodes = self._nodes_of(name for name in others if name not in connected)
        if not holders and not nodes:
            amount_pico = budget.grant(word.instance, word.need_pico, len(connected) + self._peers.workers)
        return Granted(amount_pico, max(0, budget.rest_pico), budget.limit_pico, holders, nodes)

    def _nodes_of(self, instances: Iterable[str]) -> tuple[str, ...]:
        """Return the other nodes that are there and have one of these workers."""
        names = list(instances) if self._peers.nodes else []
        if not names:
            return ()
        table = tables.instances
        found = self._connection.execute(select(table.c.node).where(table.c.instance.in_(names)).distinct()).scalars()
        return tuple(sorted({*found} & self._peers.nodes))

    def _hello(self, word: Hello) -> bool:
        state = self._states.get(word.instance)
        if state == CLOSED:
            return False
        if state is None:
            row = {"instance": word.instance, "worker": word.worker, "pid": word.pid, "process": word.process}
            self._connection.execute(insert(tables.instances).values(row | {"state": LIVE, "node": self._node}))
            self._states[word.instance] = LIVE
        for name, (left_pico, posted_pico) in word.leases.items():
            if name in self._budgets:
                self._budgets[name].correct(word.instance, left_pico, posted_pico)
        return True

    def write(self) -> None:
        _write_spent(self._connection, self._budgets, self._before)
        fresh: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for name, budget in self._budgets.items():
            before = self._before[name].leases
            for instance, lease in budget.leases.items():
                if lease != before.get(instance):
                    sums = {"granted_pico": lease.granted_pico, "posted_pico": lease.posted_pico}
                    if instance in before:
                        changed.append({"at": instance, "on": name, **sums})
                    else:
                        fresh.append({"instance": instance, "budget": name, **sums})
        table = tables.leases
        if fresh:
            self._connection.execute(insert(table), fresh)
        if changed:
            where = (table.c.instance == bindparam("at")) & (table.c.budget == bindparam("on"))
            values: dict[str, Any] = {
                "granted_pico": bindparam("granted_pico"),
                "posted_pico": bindparam("posted_pico"),
            }
            self._connection.execute(update(table).where(where).values(values), changed)


def _close(connection: Connection, instance: Instance, posted_pico: Mapping[str, int], node: str) -> None:
    name = instance.instance
    state = _states(connection, {name}).get(name)
    if state == CLOSED:
        return
    leased = select(tables.leases.c.budget).where(tables.leases.c.instance == name)
    names = {*connection.execute(leased).scalars(), *posted_pico}
    # Money may have been spent on a budget that the state no longer knows: keep the sum for when its limit comes back.
    known = set(connection.execute(select(tables.budgets.c.id).where(tables.budgets.c.id.in_(names))).scalars())
    rows = [{"id": budget, "limit_pico": 0, "spent_pico": 0} for budget in sorted(names - known)]
    insert_new(connection, tables.budgets, rows)
    budgets = _load(connection, names)
    connection.execute(delete(tables.leases).where(tables.leases.c.instance == name))
    for budget in names:
        budgets[budget].close(name, posted_pico.get(budget, 0))
    _write_spent(connection, budgets)
    table = tables.instances
    if state is None:
        row = {**msgspec.structs.asdict(instance), "state": CLOSED, "node": node}
        connection.execute(insert(table).values(row))
    else:
        connection.execute(update(table).where(table.c.instance == name).values(state=CLOSED))


def _states(connection: Connection, instances: Iterable[str]) -> dict[str, str]:
    """Return instance → its state, and lock them."""
    table = tables.instances
    query = select(table.c.instance, table.c.state).where(table.c.instance.in_(list(instances)))
    return {row.instance: row.state for row in connection.execute(query.order_by(table.c.instance).with_for_update())}


def _load(connection: Connection, names: Iterable[str], *, lock: bool = True) -> dict[str, Budget]:
    """Return the budgets with their leases; with ``lock`` nobody else changes them before this transaction ends."""
    wanted = list(names)
    if not wanted:
        return {}
    budget, lease = tables.budgets.c, tables.leases.c
    query = select(budget.id, budget.limit_pico, budget.spent_pico).where(budget.id.in_(wanted)).order_by(budget.id)
    rows = connection.execute(query.with_for_update() if lock else query)
    loaded = {name: Budget(limit, spent) for name, limit, spent in rows}
    leases = select(lease.budget, lease.instance, lease.granted_pico, lease.posted_pico)
    for name, instance, granted, posted in connection.execute(leases.where(lease.budget.in_(wanted))):
        loaded[name].leases[instance] = Lease(granted, posted)
    return loaded


def _write_spent(
    connection: Connection, budgets: Mapping[str, Budget], before: Mapping[str, Budget] | None = None
) -> None:
    rows = [
        {"at": name, "sum": budget.spent_pico}
        for name, budget in sorted(budgets.items())
        if before is None or budget.spent_pico != before[name].spent_pico
    ]
    if rows:
        table = tables.budgets
        connection.execute(update(table).where(table.c.id == bindparam("at")).values(spent_pico=bindparam("sum")), rows)
