"""`upeti conduct`: the whole way of a case from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from upeti.cli.main import main
from upeti.cli.state import open_state
from upeti.control.cases import open_case
from upeti.rights.conduct.drift import drift, moved
from upeti.rights.conduct.reading import Shape

LEGAL = ("--by", "head of legal", "--why", "it asks for training data")
PAST, WINDOW = [Shape(9, 0, 0, 0, 1, 4, 7)] * 20 + [Shape(8, 0, 0, 0, 1, 4, 7)] * 20, [Shape(16, 8, 1, 0, 0, 1, 9)] * 20


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text('data_dir = "data"\n[conduct]\nappeal_contact = "appeals@example.com"\n')
    return path


@pytest.fixture
def case(config: Path) -> str:
    store = open_state(config)
    found = drift(WINDOW, PAST, seed=1)
    evidence: dict[str, Any] = {"what": "unlike its past", "p": found.p, "moved": moved(WINDOW, PAST)}
    made = open_case(store, store.data_dir, "acme", "conduct", evidence, family="drift")
    store.close()
    return made


def run(config: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conduct", *arguments, "--config", str(config)])
    return int(ended.value.code or 0)


def test_from_the_case_to_its_end(config: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for arguments in (
        ("warn", case, *LEGAL),
        ("throttle", case, *LEGAL),
        ("suspend", case, *LEGAL),
        ("appeal", case, *LEGAL),
        ("decide", case, "uphold", "--by", "deputy head of legal", "--why", "still"),
        ("decide", case, "reduce", *LEGAL),
        ("close", case, *LEGAL),
    ):
        assert run(config, *arguments) == 0
        said.append(capsys.readouterr().out.split(":")[0].split(" until")[0])
    states = ("warned", "throttled", "suspended", "appealed", "suspended", "throttled", "closed")
    assert said == [f"{case} is {state}" for state in states]
    assert run(config, "show", case, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [event["event"] for event in whole["events"]] == [
        *("open", "warn", "throttle", "suspend", "appeal", "uphold", "reduce", "close")
    ]
    assert run(config, "show", case) == 0
    assert "open (drift)" in capsys.readouterr().out
    assert run(config, "list") == 0
    assert "There is no open case" in capsys.readouterr().out
    assert run(config, "list", "--all") == 0
    assert "acme" in capsys.readouterr().out


def test_the_evidence_of_a_suspension_has_the_hash_that_was_journaled(
    config: Path, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "suspend", case, *LEGAL, "--json") == 0
    sha256 = json.loads(capsys.readouterr().out)["bundle_sha256"]
    assert run(config, "evidence", case, "--out", str(tmp_path / "bundle")) == 0
    assert sha256 in capsys.readouterr().out
    assert hashlib.sha256((tmp_path / "bundle" / "bundle.json").read_bytes()).hexdigest() == sha256
    drawn = (tmp_path / "bundle" / "drift.svg").read_text()
    assert "Window against the past" in drawn
    assert run(config, "evidence", case, "--out", str(tmp_path / "again")) == 0
    assert (tmp_path / "again" / "drift.svg").read_text() == drawn
    capsys.readouterr()
    assert run(config, "evidence", case) == 0
    assert hashlib.sha256(capsys.readouterr().out.rstrip("\n").encode()).hexdigest() == sha256
    (tmp_path / "file").write_text("")
    assert run(config, "evidence", case, "--out", str(tmp_path / "file")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_reports_holds_and_purposes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import time

    assert run(config, "open", "beta", "--what", "a letter of the provider", *LEGAL, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "report"
    store = open_state(config)
    until_ns = time.time_ns() + 3600 * 10**9
    held = open_case(
        store, store.data_dir, "beta", "abuse_block", {"what": "blocked"}, state="quarantined", until_ns=until_ns
    )
    store.close()
    assert run(config, "release", held, *LEGAL) == 0
    assert capsys.readouterr().out == f"{held} is open: beta.\n"
    assert run(config, "declare", "beta", "--purpose", "coding", *LEGAL) == 0
    assert capsys.readouterr().out == "beta has declared: coding.\n"
    assert run(config, "declare", "beta", "--purpose", "mischief", *LEGAL) == 2
    assert "choose from customer_support" in capsys.readouterr().err
    assert run(config, "status", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"enabled": False, "purposes": {"beta": "coding"}, "units": []}
    assert run(config, "status") == 0
    assert "The monitor is off" in capsys.readouterr().out


def test_what_cannot_be_done_says_why(config: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, why in (
        (("appeal", case, *LEGAL), "a case that is open takes no appeal"),
        (("show", "C-9"), "there is no case `C-9`"),
        (("suspend", case, "--by", "7", "--why", "w"), "no name of a person"),
    ):
        assert run(config, *arguments) == 2
        assert why in capsys.readouterr().err
    config.write_text('data_dir = "data"\n')
    assert run(config, "suspend", case, *LEGAL) == 2
    assert "set appeal_contact in [conduct]" in capsys.readouterr().err
    config.write_text('data_dir = "data"\n[conduct]\nappeal_contact = 7\n')
    assert run(config, "suspend", case, *LEGAL) == 2
    assert "[conduct]: Expected `str`" in capsys.readouterr().err
