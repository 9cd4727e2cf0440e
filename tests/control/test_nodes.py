"""The nodes of one state: who is there, who may have a name, what becomes of a lost one."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.keeper_side import limits
from upeti.control.ledger import Ask, Hello, Ledger, Peers
from upeti.control.nodes import AWAY_S, Nodes
from upeti.control.places import Node, NodeError
from upeti.control.store import Store, StoreError

OpenStore = Callable[[], Store]


def lease(store: Store, node: str, instance: str, need: int) -> None:
    ledger = Ledger(store, node)
    ledger.apply([Hello(instance, 0, 1, "p", {}), Ask(instance, "key:a", need, 0, True)], {instance})


def test_nodes_see_each_other(open_store: OpenStore) -> None:
    store = open_store()
    nodes = Nodes(store)
    nodes.register(Node("a", "1"), "127.0.0.1:1")
    assert nodes.beat("a") == Peers()
    nodes.register(Node("b", "2"), "127.0.0.1:2")
    Ledger(store).set_terms(limits(a=1000))
    lease(store, "b", "w1", 100)
    lease(store, "b", "w2", 100)
    assert nodes.beat("a") == Peers(frozenset({"b"}), 2)
    a, b = nodes.all()
    assert (a.node, a.address, a.workers, a.leased_pico) == ("a", "127.0.0.1:1", 0, {})
    assert (b.node, b.workers, b.leased_pico) == ("b", 2, {"key:a": 750})
    assert 0 <= b.silent_ms < 5000
    assert abs(b.seen_ns - time.time_ns()) < 10**10


def test_one_name_is_one_data_directory(open_store: OpenStore) -> None:
    nodes = Nodes(open_store())
    nodes.register(Node("a", "1"), "x")
    nodes.register(Node("a", "1"), "y")
    with pytest.raises(NodeError, match="another data directory is the node `a`: choose another"):
        nodes.register(Node("a", "2"), "z")
    assert [row.address for row in nodes.all()] == ["y"]


def test_a_lost_node_is_forgotten_and_its_leases_count_as_spent(open_store: OpenStore) -> None:
    store = open_store()
    nodes, ledger = Nodes(store), Ledger(store)
    ledger.set_terms(limits(a=1000))
    for name in ("a", "b"):
        nodes.register(Node(name, name), "x")
    lease(store, "b", "w1", 600)
    with pytest.raises(StoreError, match="the node `b` is there"):
        nodes.forget("b")
    with store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE nodes SET seen_ns = seen_ns - {int(AWAY_S * 2e9)} WHERE node = 'b'")
    assert nodes.beat("a") == Peers()
    assert [row.is_away for row in nodes.all()] == [False, True]
    assert nodes.forget("b") == {"key:a": 600}
    assert [(row.spent_pico, row.leased_pico) for row in ledger.budgets()] == [(600, 0)]
    assert [row.node for row in nodes.all()] == ["a"]
    with pytest.raises(StoreError, match="there is no node `b`"):
        nodes.forget("b")
