"""What is to end by itself does, in a running keeper."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from support.keeper_side import KeeperProcess, until
from upeti.control.cases import case_of, open_case
from upeti.control.store import Store
from upeti.journal.acts import read_acts
from upeti.rights.conduct.case import State


def test_a_hold_reaches_the_snapshot_and_leaves_it_again(
    keeper: KeeperProcess, open_store: Callable[[], Store], state_url: str, tmp_path: Path
) -> None:
    store = open_store()
    until_ns = time.time_ns() + 3 * 10**9
    evidence = {"what": "the provider blocked the account for abuse"}
    case = open_case(store, keeper.data_dir, "acme", "abuse_block", evidence, state="quarantined", until_ns=until_ns)
    until(lambda: keeper.snapshot().suspended == {"acme": case}, what="the hold")
    assert case in keeper.snapshot().notices[case]
    until(lambda: keeper.snapshot().suspended == {}, what="its end")
    assert time.time_ns() >= until_ns
    assert case_of(store, case).state is State.OPEN
    assert [each.kind for each in read_acts(keeper.data_dir)] == ["conduct.open", "conduct.hold", "conduct.hold_ended"]
    assert "case" in keeper.events()
