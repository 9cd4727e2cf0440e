"""`upeti focus`: what the books hold, as files that the checker takes; what is wrong in a file is said with the cure."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from support.focus_rows import PRICE, every_sort
from support.invoice_side import PERIOD, close, invoicing, post, row
from support.journal_files import JournalFiles, opened, settled
from upeti.cli.main import main
from upeti.control.books import Books
from upeti.control.jobs import project
from upeti.control.store import Store
from upeti.core.amount import decimal_text
from upeti.core.events import Outcome
from upeti.money.ledger import Batch, BatchKind

CONFIG = """
data_dir = "data"

[[channel]]
name = "openai"
kind = "azure"
base_url = "https://acme.openai.azure.com"
account = "sub-1"
zone = "data_zone_eu"
"""


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["focus", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A state with usage of every sort."""
    path = tmp_path / "upeti.toml"
    path.write_text(CONFIG)
    store = Store(tmp_path / "data")
    books = Books(store)
    books.keep_prices([PRICE], 0)
    batch = Batch(number=0, kind=BatchKind.USAGE, at_ns=0, period="2026-11", instance="w0-1", segment=0)
    assert books.append(batch, every_sort()) is not None
    store.close()
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_an_export_passes_the_check(
    config: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"november.{kind}"
    assert run("export", "-o", file, "--config", config) == 0
    printed = capsys.readouterr()
    assert "12 rows" in printed.out
    assert "5 attempts have no price" in printed.err
    assert run("check", file) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_the_sum_is_the_usage_to_the_last_digit(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "november.csv"
    assert run("export", "--from", "2026-11-01", "--to", "2026-11-30", "-o", file, "-c", config) == 0
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert {row["BillingCurrency"] for row in rows} == {"USD"}  # October is left out
    expected = sum(row.cost_pico for row in every_sort() if row.currency == "USD")
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(decimal_text(expected))
    assert {row["ServiceProviderName"] for row in rows} == {"Microsoft Azure"}
    assert {(row["BillingAccountId"], row["BillingAccountName"], row["RegionId"]) for row in rows} == {
        ("sub-1", "openai", "data_zone_eu")
    }


def test_a_journal_its_bill_and_its_focus_file_have_one_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "upeti.toml"
    config.write_text(CONFIG)
    files = JournalFiles(tmp_path / "data")
    for call in range(1, 40):
        files.append(opened(call, feature=f"f{call % 3}"), settled(call, cost_pico=10**12 + call, price_id=PRICE.id))
    files.append(opened(40), settled(40, outcome=Outcome.ESTIMATED, meters=None, cost_pico=7, price_id=PRICE.id))
    files.close()
    store = Store(tmp_path / "data")
    Books(store).keep_prices([PRICE], 0)
    assert project(tmp_path / "data", store, None) == 1
    store.close()
    with pytest.raises(SystemExit):
        main(["bill", "--json", "--config", str(config)])
    (total,) = json.loads(capsys.readouterr().out)["totals"]
    assert run("export", "-o", tmp_path / "all.csv", "-c", config) == 0
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(total["cost"])
    assert {row["x_Estimated"] for row in rows} == {"true", "false"}
    assert run("check", tmp_path / "all.csv") == 0


def test_the_commands_of_the_page_run(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    page = (Path(__file__).parents[2] / "docs" / "focus.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("upeti focus ")]
    assert len(lines) >= 2
    for line in lines:
        assert run(*line.removeprefix("upeti focus ").split()) == 0


def test_issued_invoices_are_a_dataset_of_their_own(tmp_path: Path) -> None:
    config = tmp_path / "upeti.toml"
    config.write_text(CONFIG)
    store = Store(tmp_path / "data")
    post(store, row("warung"), row("orchard"))
    close(store)
    due = {
        tenant: invoicing(store).issue(tenant, PERIOD).document.totals.due.billing for tenant in ("warung", "orchard")
    }
    store.close()
    file = tmp_path / "lines.parquet"
    common = ("export", "--dataset", "invoice-detail", "-o", file, "-c", config)
    assert run(*common, "--from", "2026-11-02", "--to", "2026-11-02") == 0
    assert run("check", file) == 0
    rows = pq.read_table(file).to_pylist()
    for tenant, amount in due.items():
        assert sum(one["BilledCost"] for one in rows if one["BillingAccountId"] == tenant) == Decimal(amount)
    assert run(*common, "--tenant", "orchard") == 0
    assert {one["BillingAccountId"] for one in pq.read_table(file).to_pylist()} == {"orchard"}
    assert run(*common, "--from", "2026-11-03") == 0
    assert pq.read_table(file).num_rows == 0


def test_a_tenant_alone(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "acme.json"
    assert run("export", "--tenant", "nobody", "-o", file, "-c", config) == 0
    assert json.loads(file.read_text()) == []


def test_what_breaks_a_rule_is_shown_and_ends_with_1(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "november.csv"
    run("export", "-o", file, "-c", config)
    file.write_text(file.read_text().replace("Usage-Based", "Sometimes"))
    capsys.readouterr()
    assert run("check", file) == 1
    printed = capsys.readouterr().out
    assert "value.allowed" in printed
    assert "it breaks FOCUS 1.4" in printed
    assert run("check", file, "--json") == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["counts"] == {"value.allowed": 11}
    assert verdict["findings"][0]["column"] == "ChargeFrequency"


def test_errors_name_the_cure(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "-o", tmp_path / "november", "-c", config) == 2
    assert "give --format" in capsys.readouterr().err
    assert run("export", "-o", tmp_path / "no" / "november.csv", "-c", config) == 2
    assert "name another file" in capsys.readouterr().err
    assert run("check", tmp_path / "none.csv") == 2
    assert "upeti focus export" in capsys.readouterr().err
    assert run("export", "--format", "csv", "-o", tmp_path / "november", "-c", config) == 0
