"""`upeti savings`: from the books and the journal of one data directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.journal_files import JournalFiles, opened, settled
from upeti.cli.main import main
from upeti.control.books import Books
from upeti.control.store import Store
from upeti.core.amount import decimal_text, parse_pico
from upeti.core.events import Outcome


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("savings") / "story"
    assert run("simulate", "month", str(directory), "--samples", "1000") == 0
    files = JournalFiles(directory / "data")
    files.append(opened(2), settled(2, ended="timed_out", outcome=Outcome.ESTIMATED, meters=None, cost_pico=900))
    files.append(opened(2, 1), settled(2, 1, cost_pico=60))
    return directory


def test_findings_and_failed_attempts(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("savings", "--json", "--config", str(story / "upeti.toml")) == 0
    made = json.loads(capsys.readouterr().out)
    estimated_pico = sum(row.cost_pico for row in Books(Store(story / "data")).usage() if row.outcome == "estimated")
    bounds = [one for one in made["findings"] if one["kind"] == "bounds"]
    assert sum(parse_pico(one["could_at_most"]) for one in bounds) == estimated_pico > 0
    assert {one["kind"] for one in made["findings"]} >= {"cached input", "slower tiers", "bounds"}
    (failed,) = made["not_answered"]
    assert (failed["ended"], failed["cost"], failed["tried_again"]) == ("timed_out", decimal_text(900), 1)
    assert made["how"]["cached input"]


def test_it_says_how_and_what_it_cannot_know(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("savings", "--config", str(story / "upeti.toml")) == 0
    shown = capsys.readouterr().out
    for kind in ("cached input", "slower tiers", "bounds", "did not answer"):
        assert f"{kind} " in shown
    assert shown.count("How: ") == 4
    assert "Not measured: calls sent twice by an app." in shown


def test_for_a_spreadsheet(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("savings", "--csv", "--tenant", "bank", "--config", str(story / "upeti.toml")) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "kind,channel,model,quantity,currency,saved,could_at_most"
    assert lines
    assert not any(line.startswith("not answered") for line in lines)  # the journal's attempts are another tenant's
