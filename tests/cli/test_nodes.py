"""`upeti nodes`: who shares the state, and what a lost one costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.keeper_side import limits
from upeti.cli.main import main
from upeti.cli.state import open_state
from upeti.control.ledger import Ask, Hello, Ledger
from upeti.control.nodes import Nodes
from upeti.control.places import Node


@pytest.fixture
def config(tmp_path: Path, state_url: str) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text(f'data_dir = "data"\n[state]\nurl = "{state_url}"\n')
    return path


def run(config: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["nodes", *arguments, "--config", str(config)])
    return int(ended.value.code or 0)


def test_listing_and_forgetting(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "list") == 0
    assert "There are no nodes:" in capsys.readouterr().out
    store = open_state(config)
    Nodes(store).register(Node("north", "1"), "127.0.0.1:8081")
    Ledger(store).set_terms(limits(a=3 * 10**12))
    Ledger(store, "north").apply([Hello("w0", 0, 1, "p", {}), Ask("w0", "key:a", 2 * 10**12, 0, True)], {"w0"})
    assert run(config, "forget", "north") == 2
    assert "the node `north` is there" in capsys.readouterr().err
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE nodes SET seen_ns = 10000000000")
    assert run(config, "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "node": "north",
        "state": "away",
        "seen": "1970-01-01T00:00:10Z",
        "workers": 1,
        "control": "127.0.0.1:8081",
        "leased": {"key:a": "2"},
    }
    assert run(config, "list") == 0
    assert "north" in capsys.readouterr().out
    assert run(config, "forget", "north") == 0
    assert "key:a: 2 counts as spent\nnorth is forgotten." in capsys.readouterr().out
    assert Nodes(store).all() == []
