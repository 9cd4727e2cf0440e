from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from support.journal_files import JournalFiles, opened, refused, settled
from upeti.cli.calls import calls
from upeti.core.events import Outcome

app = typer.Typer()
app.command()(calls)


def run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--data-dir", str(data_dir), *arguments])


def run_json(data_dir: Path, *arguments: str) -> list[dict[str, Any]]:
    result = run(data_dir, "--json", *arguments)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, meters={"input": 3, "pages": 2}))
    files.append(opened(2, tenant="globex", key="k2", task="topic", channel="azure", model="gpt-4o"))
    files.append(settled(2, outcome=Outcome.UNPRICED, cost_pico=0, meters=None, first_byte_us=-1))
    files.append(opened(3, feature="a\x1b[2Jb"), settled(3, outcome=Outcome.VOIDED, cost_pico=0, ended="not_sent"))
    files.append(opened(3, 1, feature="=cmd()"), settled(3, 1))
    files.append(refused(4, feature="feed"), opened(5))
    return tmp_path


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["attempt_id"] for row in rows]


def test_newest_first_with_everything_known(data_dir: Path) -> None:
    rows = run_json(data_dir)
    assert names(rows) == ["call-0003-1", "call-0003-0", "call-0002-0", "call-0001-0"]
    one, unpriced = rows[3], rows[2]
    assert one["meters"] == {"input": 3, "pages": 2}
    assert one["cost"] == "0.000001234567"
    assert one["opened_at"] == "2026-11-01T00:00:01.000000Z"
    assert (unpriced["meters"], unpriced["cost"], unpriced["first_byte_us"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tenant", "globex"], ["call-0002-0"]),
        (["--key", "k2"], ["call-0002-0"]),
        (["--task", "topic"], ["call-0002-0"]),
        (["--feature", "=cmd()"], ["call-0003-1"]),
        (["--channel", "azure"], ["call-0002-0"]),
        (["--model", "gpt-4o", "--tenant", "acme"], []),
        (["--outcome", "voided"], ["call-0003-0"]),
        (["--call-id", "call-0003"], ["call-0003-1", "call-0003-0"]),
        (["--since", "2026-11-01T00:00:02"], ["call-0003-1", "call-0003-0", "call-0002-0"]),
        (["--since", "2026-11-01T07:00:02+07:00", "--limit", "1"], ["call-0003-1"]),
        (["--until", "2026-11-01T00:00:02"], ["call-0001-0"]),
        (["--since", "2026-11-02"], []),
        (["--limit", "2"], ["call-0003-1", "call-0003-0"]),
        (["--limit", "0"], ["call-0003-1", "call-0003-0", "call-0002-0", "call-0001-0"]),
        (["--tenant", "x' OR '1'='1"], []),
    ],
)
def test_filters(data_dir: Path, arguments: list[str], expected: list[str]) -> None:
    assert names(run_json(data_dir, *arguments)) == expected


def test_since_takes_a_time_ago(tmp_path: Path) -> None:
    now = time.time_ns()
    files = JournalFiles(tmp_path)
    for call, hours in ((1, 5), (2, 3), (3, 0)):
        at = now - hours * 3600 * 10**9 - 10**9
        files.append(opened(call, at_ns=at), settled(call, at_ns=at))
    assert names(run_json(tmp_path, "--since", "4h")) == ["call-0003-0", "call-0002-0"]
    assert names(run_json(tmp_path, "--since", "1w", "--until", "4h")) == ["call-0001-0"]


def test_refused_calls_are_a_list_of_their_own(data_dir: Path) -> None:
    (row,) = run_json(data_dir, "--outcome", "refused", "--feature", "feed", "--since", "2026-11-01")
    assert (row["call_id"], row["code"]) == ("call-0004", "budget_exceeded")
    assert "meters" not in row
    assert "budget_exceeded" in run(data_dir, "--outcome", "refused").stdout


def test_the_table_is_harmless_and_says_unknown(data_dir: Path) -> None:
    shown = run(data_dir).stdout
    assert "\x1b" not in shown
    assert "a\\x1b[2Jb" in shown
    (row,) = [row for row in shown.splitlines() if "globex" in row]
    parts = [part.strip() for part in row.split("│")]
    assert parts[-5:] == ["?", "?", "90", "?", "call-0002"]


def test_csv_has_every_column(data_dir: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(data_dir, "--csv").stdout)))
    assert rows[0]["feature"] == "'=cmd()"
    assert rows[3]["input"] == "3"
    assert rows[3]["meters_other"] == '{"pages": 2}'
    assert rows[2]["cost"] == ""


def test_nothing_is_said_as_nothing(tmp_path: Path) -> None:
    assert run_json(tmp_path) == []
    assert run(tmp_path).stdout == "Nothing found.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--outcome", "lost"], "choose from posted"),
        (["--since", "soon"], "write it as 2026-11-01"),
        (["--since", "999999w"], "write it as 2026-11-01"),
        (["--outcome", "refused", "--model", "x"], "leave out"),
    ],
)
def test_wrong_options_are_named(data_dir: Path, arguments: list[str], says: str) -> None:
    result = run(data_dir, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_many_rows_are_streamed_as_one_array(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    count = 12_000
    files.append(*(record for call in range(count) for record in (opened(call), settled(call))))
    rows = run_json(tmp_path, "--limit", "0")
    assert len(rows) == count
    assert rows[0]["call"] == count - 1
