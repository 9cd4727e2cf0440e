from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.rollout_side import added, certified
from upeti.cli.main import main
from upeti.control.store import Store

WHO = ("--by", "head of product", "--why", "the figures are good")


def upeti(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["students", *arguments])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return said.out


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "upeti.toml").write_text('data_dir = "data"\n')
    return Store(tmp_path / "data")


def test_students_are_listed_shown_and_moved(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no students yet" in upeti(capsys, "list")
    added(store, tmp_path)
    assert "intents@1 is shadow." in upeti(capsys, "promote", "intents", *WHO)
    assert "it has no certificate" in upeti(capsys, "list")
    certified(store)
    assert "intents@1 is canary_1." in upeti(capsys, "promote", "intents", *WHO)
    shown = upeti(capsys, "show", "intents")
    assert "answers            yes" in shown
    assert "system 5.00%, from confidence 0.5 on" in shown
    assert "not known yet, at most 100.00%, 5.00% allowed; 0 of 0 audits" in shown
    (row,) = json.loads(upeti(capsys, "list", "--task", "intents", "--json"))
    assert row == json.loads(upeti(capsys, "show", "intents@1", "--json"))
    assert json.loads(upeti(capsys, "list", "--task", "other", "--json")) == []
    for word, stage in (
        ("demote", "shadow"),
        ("roll-back", "rolled_back"),
        ("readmit", "shadow"),
        ("retire", "retired"),
    ):
        assert f"intents@1 is {stage}." in upeti(capsys, word, "intents", *WHO)
    with pytest.raises(SystemExit):
        main(["students", "promote", "intents", *WHO])
    assert "a model that is retired cannot be promoted" in capsys.readouterr().err
