"""What tenants declare: an act each time, the last one counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from upeti.control.purposes import declare, declared
from upeti.control.store import Store
from upeti.journal.acts import read_acts
from upeti.rights.conduct.case import CaseError


def test_the_last_declaration_counts(open_store: Callable[[], Store], tmp_path: Path) -> None:
    store = open_store()
    before = store.changes()
    for purpose in ("coding", "customer_support"):
        declare(store, tmp_path, "acme", purpose, person="head of legal", why="order form")
    assert {name: one.purpose for name, one in declared(store).items()} == {"acme": "customer_support"}
    assert store.changes() == before + 2
    assert [(act.kind, act.subject) for act in read_acts(tmp_path)] == [("conduct.declare", "acme")] * 2
    with pytest.raises(CaseError, match="choose from customer_support"):
        declare(store, tmp_path, "acme", "mischief", person="head of legal", why="order form")
