"""Leases in the state: each batch of words is one transaction, and only what it made durable is told.

The arithmetic is ``money/budget``; here its numbers are read, changed and written back under locks of their
rows: first the instances', then the budgets', each in the order of the ids, so that nobody waits for who waits
for him; a lease is only touched by who has locked its budget. Which calls a budget is for, and what its limit is, is
in its terms, from the configuration, the state and the keys; a window of it gets its row when it is first asked for.
Words of an instance that is closed change nothing: its journal has been read to the end. An instance belongs to a node,
whose disk has its journal.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from upeti.control import tables
from upeti.control.store import Store, insert_new, raise_counter
from upeti.money.budget import Budget, Lease
from upeti.money.budget_terms import CALLS, RATE_UNITS, TOKENS, USD, BudgetTerms, root_of

LIVE: Final = "live"
CLOSED: Final = "closed"
# A minute's rate is of no use when it is over; the last words on it come within seconds.
_RATES_KEPT_NS: Final = 120 * 10**9
# Between the earliest and the latest zone's midnight of one date (UTC+14 and UTC-12), and some more: where the zone of a
# budget has changed, its present window may have the end of before.
_ZONES_APART_NS: Final = 27 * 3600 * 10**9


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
    """An instance gives back, or only says what it has posted. ``recalled``: it was asked to. ``overrun``: what cost
    more than its bound, in words; it freezes the budget.
    """

    instance: str
    budget: str
    amount_pico: int
    posted_pico: int
    recalled: bool = False
    overrun: str = ""


class Granted(msgspec.Struct, frozen=True):
    """What came of an ask. ``holders`` or ``nodes`` are not empty when nothing was granted yet: these workers of
    this node, and those of these other nodes, may have what is needed. ``left_pico`` is below zero when more is spent
    and leased than the limit has: it was lowered.
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
    """A window of a budget as it stands."""

    id: str
    limit_pico: int
    spent_pico: int
    leased_pico: int
    unit: str = USD
    ends_ns: int = 0  # 0: never


class Freeze(msgspec.Struct, frozen=True):
    """A budget that is stopped until a person releases it, because something cost more than its bound."""

    root: str  # of all its windows
    budget: str  # the window that it happened in
    at_ns: int
    reason: str


class Peers(msgspec.Struct, frozen=True):
    """The other nodes that are there, and how many workers they have together."""

    nodes: frozenset[str] = frozenset()
    workers: int = 0


Word = Hello | Ask | Return


class Ledger:
    """The budgets and leases of a state, and one node's instances."""

    def __init__(self, store: Store, node: str = "", now_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._node = node
        self._now_ns = now_ns
        self.peers = Peers()  # as last seen; only how much is granted at once and who is asked depend on it
        self.terms: Mapping[str, BudgetTerms] = {}  # by root
        # A window that is made by the old terms while the new ones are taken would keep the old limit.
        self._changing = threading.Lock()
        # Budgets that were spent from, or whose limit changed, here: for who watches the shares.
        self.touched: deque[str] = deque(maxlen=1_000_000)

    def apply(self, words: Sequence[Word], connected: Collection[str]) -> list[Granted | bool]:
        """Take ``words`` in order in one transaction; return ``Granted`` for an ask, else whether it was
        taken.

        ``connected`` are the instances of this node that can be asked to give back.
        """
        with self._changing, self._store.writing_rows() as connection:
            batch = _Batch(connection, words, self._node, self.peers, self.terms)
            answers = [batch.take(word, connected) for word in words]
            spent = batch.write()
            overrun = [word for word in words if isinstance(word, Return) and word.overrun]
            if overrun:
                _freeze(connection, overrun, self._now_ns())
        self.touched.extend(spent)
        self.touched.extend(word.budget for word in overrun)
        return answers

    def set_terms(self, terms: Mapping[str, BudgetTerms]) -> None:
        """Take the terms (by root) of which budgets are made; change the limits of windows that are not over.

        What was spent stays. A budget without an end is made at once, a window when it is first asked for.
        """
        table, ends_ns = tables.budgets, tables.budgets.c.ends_ns
        query = select(table.c.id, table.c.limit_pico, ends_ns)
        query = query.where((ends_ns == 0) | (ends_ns > self._now_ns() - _ZONES_APART_NS))
        with self._changing, self._store.writing_rows() as connection:
            self.terms = terms
            known = {row.id: (row.limit_pico, row.ends_ns) for row in connection.execute(query)}
            _make_missing(
                connection,
                [root for root, each in terms.items() if each.window == "total" and root not in known],
                terms,
            )
            changed: list[dict[str, Any]] = []
            for budget, before in sorted(known.items()):
                each = terms.get(root_of(budget))
                window = each.window_of(budget) if each is not None else None
                if each is not None and window is not None and before != (each.limit_pico, window.ends_ns):
                    changed.append({"at": budget, "to": each.limit_pico, "until": window.ends_ns})
            if changed:
                where = table.c.id == bindparam("at")
                statement = update(table).where(where).values(limit_pico=bindparam("to"), ends_ns=bindparam("until"))
                connection.execute(statement, changed)
        self.touched.extend(row["at"] for row in changed)

    def freezes(self) -> list[Freeze]:
        """Return what is frozen, by root."""
        table = tables.freezes
        query = select(table.c.root, table.c.budget, table.c.at_ns, table.c.reason).order_by(table.c.root)
        with self._store.engine.connect() as connection:
            return [Freeze(*row) for row in connection.execute(query)]

    def release(self, root: str) -> bool:
        """Let a frozen budget go on; return whether it was frozen."""
        table, alerts = tables.freezes, tables.alerts
        with self._store.writing() as connection:
            budget = connection.execute(select(table.c.budget).where(table.c.root == root)).scalar_one_or_none()
            if budget is None:
                return False
            connection.execute(delete(table).where(table.c.root == root))
            # Should it be frozen again, that is another alert.
            connection.execute(delete(alerts).where((alerts.c.budget == budget) & (alerts.c.share == 0)))
            raise_counter(connection, "changes")
        return True

    def purge_rates(self) -> None:
        """Forget the calls and tokens of minutes that are over."""
        table = tables.budgets
        over = (table.c.unit.in_((CALLS, TOKENS))) & (table.c.ends_ns < self._now_ns() - _RATES_KEPT_NS)
        with self._store.writing() as connection:
            old = select(table.c.id).where(over)
            connection.execute(delete(tables.leases).where(tables.leases.c.budget.in_(old)))
            connection.execute(delete(table).where(over))

    def close(self, instance: Instance, posted_pico: Mapping[str, int]) -> None:
        """End an instance that is dead: its journal says what it posted, the rest of its leases comes back.

        Done twice, the second time changes nothing.
        """
        with self._changing, self._store.writing_rows() as connection:
            self.touched.extend(_close(connection, instance, posted_pico, self._node, self.terms))

    def give_up(self, instance: Instance) -> dict[str, int]:
        """End an instance whose journal is lost: all that it had leased counts as spent. Return budget → that."""
        table = tables.leases
        query = select(table.c.budget, table.c.granted_pico, table.c.posted_pico)
        with self._changing, self._store.writing_rows() as connection:
            rows = connection.execute(query.where(table.c.instance == instance.instance)).all()
            spent_pico = {row.budget: max(row.granted_pico, row.posted_pico) for row in rows}
            self.touched.extend(_close(connection, instance, spent_pico, self._node, self.terms))
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

    def budgets(self, ids: Collection[str] | None = None) -> list[BudgetRow]:
        """Return every budget as it stands, or those with ``ids``, by id."""
        table = tables.budgets
        query = select(table.c.id, table.c.unit, table.c.ends_ns).order_by(table.c.id)
        if ids is not None:
            query = query.where(table.c.id.in_(list(ids)))
        with self._store.engine.connect() as connection:
            rows = connection.execute(query).all()
            loaded = _load(connection, [row.id for row in rows], lock=False)
        return [
            BudgetRow(id, loaded[id].limit_pico, loaded[id].spent_pico, loaded[id].leased_pico, unit, ends_ns)
            for id, unit, ends_ns in rows
            if id in loaded
        ]


class _Batch:
    """The rows that one batch of words touches, as budgets, and what of them changed."""

    def __init__(
        self,
        connection: Connection,
        words: Sequence[Word],
        node: str,
        peers: Peers,
        terms: Mapping[str, BudgetTerms],
    ) -> None:
        self._connection = connection
        self._node = node
        self._peers = peers
        self._states = _states(connection, {word.instance for word in words})
        names: set[str] = set()
        for word in words:
            names.update(word.leases if isinstance(word, Hello) else (word.budget,))
        self._budgets = _load(connection, names)
        if missing := _make_missing(connection, names - self._budgets.keys(), terms):
            self._budgets |= _load(connection, missing)
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
        if budget.rest_pico < budget.short_pico(word.instance, word.need_pico) and not word.final:
            others = [name for name, lease in budget.leases.items() if lease.left_pico and name != word.instance]
            holders = tuple(name for name in others if name in connected)
            nodes = self._nodes_of(name for name in others if name not in connected)
        if not holders and not nodes:
            amount_pico = budget.grant(word.instance, word.need_pico, len(connected) + self._peers.workers)
        return Granted(amount_pico, budget.rest_pico, budget.limit_pico, holders, nodes)

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

    def write(self) -> list[str]:
        """Write what changed; return the budgets that were spent from."""
        spent = _write_spent(self._connection, self._budgets, self._before)
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
        return spent


def _close(
    connection: Connection,
    instance: Instance,
    posted_pico: Mapping[str, int],
    node: str,
    terms: Mapping[str, BudgetTerms],
) -> list[str]:
    """End an instance; return the budgets that were spent from."""
    name = instance.instance
    state = _states(connection, {name}).get(name)
    if state == CLOSED:
        return []
    leased = select(tables.leases.c.budget).where(tables.leases.c.instance == name)
    names = {*connection.execute(leased).scalars(), *posted_pico}
    # Money may have been spent on a budget that the state no longer knows: keep the sum for when its limit comes back.
    known = set(connection.execute(select(tables.budgets.c.id).where(tables.budgets.c.id.in_(names))).scalars())
    made = _make_missing(connection, names - known, terms)
    rows = [
        {"id": budget, "limit_pico": 0, "spent_pico": 0, "unit": USD, "ends_ns": 0}
        for budget in sorted(names - known - {*made})
    ]
    insert_new(connection, tables.budgets, rows)
    budgets = _load(connection, names)
    connection.execute(delete(tables.leases).where(tables.leases.c.instance == name))
    for budget in names:
        if root_of(budget).partition("+")[2] in RATE_UNITS:
            # What it let through in that minute is in no journal: all that it could have counts.
            budgets[budget].close(name, budgets[budget].leases[name].granted_pico)
        else:
            budgets[budget].close(name, posted_pico.get(budget, 0))
    spent = _write_spent(connection, budgets)
    table = tables.instances
    if state is None:
        row = {**msgspec.structs.asdict(instance), "state": CLOSED, "node": node}
        connection.execute(insert(table).values(row))
    else:
        connection.execute(update(table).where(table.c.instance == name).values(state=CLOSED))
    return spent


def _make_missing(connection: Connection, names: Iterable[str], terms: Mapping[str, BudgetTerms]) -> list[str]:
    """Make the budgets that are asked for the first time; return those of which there are terms."""
    rows: list[dict[str, Any]] = []
    for name in sorted(names):
        known = terms.get(root_of(name))
        window = known.window_of(name) if known is not None else None
        if known is None or window is None:
            continue
        sums = {"limit_pico": known.limit_pico, "spent_pico": 0}
        rows.append({"id": name, "unit": known.unit, "ends_ns": window.ends_ns, **sums})
    insert_new(connection, tables.budgets, rows)
    return [row["id"] for row in rows]


def _freeze(connection: Connection, words: Iterable[Return], at_ns: int) -> None:
    """Freeze the budgets of ``words`` that are not frozen already."""
    table = tables.freezes
    frozen = set(connection.execute(select(table.c.root)).scalars())
    rows = [
        {"root": root, "budget": word.budget, "at_ns": at_ns, "reason": word.overrun}
        for root, word in sorted({root_of(word.budget): word for word in words}.items())
        if root not in frozen
    ]
    if rows:
        insert_new(connection, table, rows)
        raise_counter(connection, "changes")


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
) -> list[str]:
    """Write the sums that changed; return of which budgets."""
    rows: list[dict[str, Any]] = [
        {"at": name, "sum": budget.spent_pico}
        for name, budget in sorted(budgets.items())
        if before is None or budget.spent_pico != before[name].spent_pico
    ]
    if rows:
        table = tables.budgets
        connection.execute(update(table).where(table.c.id == bindparam("at")).values(spent_pico=bindparam("sum")), rows)
    return [row["at"] for row in rows]
