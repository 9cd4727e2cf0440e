from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, refused, settled
from upeti.cli.bill import bill
from upeti.core.events import Outcome
from upeti.journal.events_store import project_closed_segments

RATES = """
base = "USD"
[[rate]]
currency = "IDR"
rate = "16000"
date = 2026-01-01
source = "test"
[[rate]]
currency = "IDR"
rate = "16500.5"
date = 2026-11-02
source = "test, later"
[[rate]]
currency = "EUR"
rate = "0.8"
date = 2026-01-01
source = "test"
"""

app = typer.Typer()
app.command()(bill)


def run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--data-dir", str(data_dir), *arguments])


def run_json(data_dir: Path, *arguments: str) -> dict[str, Any]:
    result = run(data_dir, "--json", *arguments)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Seven attempts of six calls on two days; one unpriced, one estimated, one voided, one open, one refused."""
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=1_000_000_000_001))
    files.append(opened(2, tenant="globex", feature="feed", model="claude"))
    files.append(settled(2, cost_pico=2, meters={"input": 5, "input_cached": 7, "output": 1, "output_reasoning": 2}))
    files.append(opened(3), settled(3, outcome=Outcome.VOIDED, cost_pico=0, meters=None, status=0))
    files.append(opened(3, 1, model="claude"))
    files.append(settled(3, 1, outcome=Outcome.ESTIMATED, cost_pico=5_000_000, meters=None))
    files.rotate()
    files.append(opened(4, feature="[bold]x", priced=False, bound_pico=0))
    files.append(settled(4, outcome=Outcome.UNPRICED, cost_pico=0, at_ns=START_NS + DAY_NS))
    files.append(opened(5), settled(5, cost_pico=10, at_ns=START_NS + 2 * DAY_NS - 1000))
    files.append(refused(6), opened(7, bound_pico=123))
    return tmp_path


def test_every_line_is_exact(data_dir: Path) -> None:
    for _ in range(2):  # from the journal, then from Parquet
        made = run_json(data_dir, "--by", "tenant, model")
        nothing = {"unmetered": 0, "currency": "USD", "converted": None}
        assert made["lines"] == [
            nothing
            | {"tenant": "acme", "model": "gpt-4.1-mini", "calls": 4, "attempts": 4}
            | {"input_tokens": 300, "output_tokens": 60, "cost": "1.000000000011", "estimated": "0", "unpriced": 1},
            nothing
            | {"tenant": "acme", "model": "claude", "calls": 1, "attempts": 1, "unmetered": 1}
            | {"input_tokens": None, "output_tokens": None, "cost": "0.000005", "estimated": "0.000005"}
            | {"unpriced": 0},
            nothing
            | {"tenant": "globex", "model": "claude", "calls": 1, "attempts": 1}
            | {"input_tokens": 12, "output_tokens": 3, "cost": "0.000000000002", "estimated": "0", "unpriced": 0},
        ]
        assert made["totals"] == [
            nothing
            | {"calls": 5, "attempts": 6, "input_tokens": 312, "output_tokens": 63, "unmetered": 1}
            | {"cost": "1.000005000013", "estimated": "0.000005", "unpriced": 1}
        ]
        assert made["pending"] == [{"currency": "USD", "attempts": 1, "bound": "0.000000000123"}]
        project_closed_segments(data_dir)


def test_a_call_with_two_attempts_in_one_group_is_one_call(data_dir: Path) -> None:
    (line,) = run_json(data_dir, "--by", "tenant", "--tenant", "acme")["lines"]
    assert (line["calls"], line["attempts"]) == (4, 5)


def test_days_are_included_whole(data_dir: Path) -> None:
    costs = {line["day"]: line["cost"] for line in run_json(data_dir, "--by", "day")["lines"]}
    assert costs == {"2026-11-01": "1.000005000003", "2026-11-02": "0.00000000001"}
    first = run_json(data_dir, "--by", "month", "--to", "2026-11-01")["lines"]
    assert [(line["month"], line["cost"]) for line in first] == [("2026-11", "1.000005000003")]
    second = run_json(data_dir, "--by", "day", "--from", "2026-11-02", "--to", "2026-11-02")["lines"]
    assert [(line["day"], line["calls"], line["unpriced"]) for line in second] == [("2026-11-02", 2, 1)]
    assert run_json(data_dir, "--from", "2026-11-03")["lines"] == []


def test_a_group_of_unpriced_calls_has_no_cost(data_dir: Path) -> None:
    lines = run_json(data_dir, "--by", "feature")["lines"]
    (line,) = [line for line in lines if line["feature"] == "[bold]x"]
    assert (line["cost"], line["unpriced"]) == (None, 1)
    shown = run(data_dir, "--by", "feature").stdout
    (row,) = [row for row in shown.splitlines() if row.startswith("[bold]x")]
    assert [part.strip() for part in row.split("│")] == ["[bold]x", "1", "1", "100", "20", "?", "0.000000", "1"]


def test_another_currency_shows_its_rate_and_adds_up(data_dir: Path, tmp_path: Path) -> None:
    rates = tmp_path / "rates.toml"
    rates.write_text(RATES)
    made = run_json(data_dir, "--currency", "idr", "--rates", str(rates), "--to", "2026-11-01", "--by", "model")
    assert made["converted_currency"] == "IDR"
    assert [line["converted"] for line in made["lines"]] == ["16000.000000016", "0.080000032"]
    assert made["totals"][0]["converted"] == made["converted_total"] == "16000.080000048"
    (rate,) = made["rates"]
    assert (rate["rate"], rate["date"], rate["source"]) == ("16000", "2026-01-01", "test")
    assert len(rate["set_sha256"]) == 64
    shown = run(data_dir, "--currency", "IDR", "--rates", str(rates), "--to", "2026-11-02", "--by", "model").stdout
    assert "1 USD = 16500.5 IDR, 2026-11-02: test, later" in shown
    assert "Rp16.500,58" in shown


def test_a_missing_rate_is_an_error(data_dir: Path) -> None:
    result = run(data_dir, "--currency", "XTS")
    assert result.exit_code == 2
    assert "no rate for XTS" in result.stderr
    assert result.stdout == ""


def test_currencies_are_never_added(data_dir: Path, tmp_path: Path) -> None:
    files = JournalFiles(data_dir, "w1-0001")
    files.append(opened(1, currency="EUR"), settled(1, cost_pico=8 * 10**12))
    rates = tmp_path / "rates.toml"
    rates.write_text(RATES)
    made = run_json(data_dir, "--by", "tenant", "--currency", "IDR", "--rates", str(rates), "--to", "2026-11-01")
    totals = {total["currency"]: (total["cost"], total["converted"]) for total in made["totals"]}
    assert totals == {"EUR": ("8", "160000"), "USD": ("1.000005000003", "16000.080000048")}
    assert Decimal(made["converted_total"]) == Decimal("176000.080000048")
    assert {rate["currency"] for rate in made["rates"]} == {"EUR", "IDR"}
    shown = run(data_dir, "--by", "tenant").stdout
    assert sum(row.startswith("total") for row in shown.splitlines()) == 2


def test_csv_has_the_lines_and_no_total(data_dir: Path) -> None:
    result = run(data_dir, "--csv", "--by", "tenant,feature")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {row["tenant"] for row in rows} == {"acme", "globex"}
    assert sum(Decimal(row["cost"]) for row in rows if row["cost"]) == Decimal("1.000005000013")
    assert [row["cost"] for row in rows if row["feature"] == "[bold]x"] == [""]


def test_the_table_says_what_is_not_in_the_sum(data_dir: Path) -> None:
    shown = run(data_dir).stdout
    assert "1 attempt without a price" in shown
    assert "1 attempt without reported usage" in shown
    assert "1 attempt open, at most 0.000000000123 USD" in shown
    assert "\x1b" not in shown


def test_an_empty_bill_says_so(tmp_path: Path) -> None:
    assert "Nothing has been settled" in run(tmp_path).stdout
    assert run_json(tmp_path)["totals"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--by", "tenant,colour"], 2, "cannot be split by colour"),
        (["--json", "--csv"], 2, "cannot be used together"),
        (["--from", "yesterday"], 2, "yesterday"),
    ],
)
def test_wrong_options_are_named(data_dir: Path, arguments: list[str], status: int, says: str) -> None:
    result = run(data_dir, *arguments)
    assert result.exit_code == status
    assert says in result.stderr


def test_a_damaged_journal_gives_no_bill_unless_it_is_skipped(data_dir: Path) -> None:
    path = data_dir / "journal" / "w0-0001" / "00000000.upj"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    result = run(data_dir)
    assert result.exit_code == 2
    assert "upeti journal verify" in result.stderr
    skipped = run(data_dir, "--skip-damaged", "--json")
    assert skipped.exit_code == 0
    assert "incomplete: w0-0001/00000000.upj" in skipped.stderr
    assert [one["segment"] for one in json.loads(skipped.stdout)["damage"]] == ["w0-0001/00000000.upj"]


def test_corrections_are_in_the_costs_and_are_no_calls(data_dir: Path) -> None:
    before = run_json(data_dir, "--by", "tenant")
    assert before["lines"][0]["cost"] == "1.000005000011"
    keeper = JournalFiles(data_dir, "keeper-corrections-1")
    keeper.append(corrected(1, was="1.000000000001", now="0.5", meters={"input": -40}))
    estimate = {"outcome": Outcome.ESTIMATED, "was": "0.000005", "now": "0.000004", "meters": {"output": 3}}
    keeper.append(corrected(3, 1, model="claude", **estimate))
    keeper.append(corrected(4, outcome=Outcome.UNPRICED, was="0", now="2", settled_ns=START_NS + DAY_NS))
    for _ in range(2):  # from the journal, then from Parquet
        after = run_json(data_dir, "--by", "tenant")
        acme, globex = after["lines"]
        assert globex == before["lines"][1]
        assert acme == before["lines"][0] | {
            "cost": "2.50000400001",
            "input_tokens": before["lines"][0]["input_tokens"] - 40,
            "output_tokens": before["lines"][0]["output_tokens"] + 3,
            "estimated": "0",
            "unpriced": 0,
        }
        keeper.close()
        project_closed_segments(data_dir, dead=["w0-0001"])
