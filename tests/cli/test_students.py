from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.owned_world import FORM, WORDS
from support.rollout_side import added, certified
from support.tiny_students import TEMPLATE
from upeti.cli.main import main
from upeti.control.store import Store
from upeti.learning.examples import Example
from upeti.learning.train import keep, train

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


def test_students_are_compared_by_what_is_known_already(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Example(str(n), f"{WORDS[label]} {n}", (label,)) for label in WORDS for n in range(30)]
    folder = tmp_path / "trained"
    trained = train(rows, FORM, level="l1", template=TEMPLATE.digest)
    digest = keep(trained, folder)
    added(store, tmp_path, version="2", folder=folder, sha256=digest)
    added(store, tmp_path)
    certified(store, "intents@2")
    better, other = json.loads(upeti(capsys, "compare", "intents@2", "intents@1", "--json"))
    assert (better["level"], better["rows"], better["agreement"]) == ("l1", 90, trained.report.agreement)
    assert (better["promise"], better["could_answer"]) == ("system 5.00%", trained.report.coverage(0.05))
    assert better["answers"] is None, "nobody has signed it"
    assert (other["level"], other["promise"], other["evidence"]) == (None, "", None)
    shown = upeti(capsys, "compare", "intents@2", "intents@1")
    assert "could answer, trained" in shown
    assert "Calibration rows are not looked at" in shown
