from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from support.journal_files import DAY_NS, START_NS, JournalFiles, opened, settled
from upeti.cli.chargeback import chargeback
from upeti.control.posting import Poster
from upeti.control.store import Store
from upeti.core.events import Outcome
from upeti.journal.events_store import project_closed_segments

app = typer.Typer()
app.command()(chargeback)


def run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--data-dir", str(data_dir), *arguments])


def run_json(data_dir: Path, *arguments: str) -> Any:
    result = run(data_dir, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("books")
    files = JournalFiles(data_dir)
    files.append(opened(1), settled(1, cost_pico=3_000_000_000_001))
    files.append(opened(2, feature="feed"), settled(2, cost_pico=10**12, outcome=Outcome.ESTIMATED, meters=None))
    files.append(opened(3, tenant="globex", feature="=x"), settled(3, cost_pico=0, outcome=Outcome.UNPRICED))
    files.append(opened(4), settled(4, cost_pico=7, at_ns=START_NS + 31 * DAY_NS))
    files.close()
    store = Store(data_dir)
    project_closed_segments(data_dir, sink=Poster(store, "here"))
    store.close()
    return data_dir


def test_a_page_has_totals_series_and_what_is_not_certain(data_dir: Path) -> None:
    page = run_json(data_dir, "--period", "2026-11")
    assert (page["from"], page["to"]) == ("2026-11-01", "2026-11-30")
    assert [(line["tenant"], line["feature"], line["cost"]) for line in page["lines"]] == [
        ("acme", "search", "3.000000000001"),
        ("acme", "feed", "1"),
        ("globex", "=x", "0"),
    ]
    (total,) = page["totals"]
    assert (total["cost"], total["estimated"], total["attempts"]) == ("4.000000000001", "1", 3)
    assert (total["unpriced_share"], total["estimated_share"]) == ("0.3333", "0.2499")
    assert [(line["day"], line["cost"]) for line in page["series"]] == [("2026-11-01", "4.000000000001")]
    assert [line["feature"] for line in page["top_features"]] == ["search", "feed", "=x"]


def test_text_csv_and_parquet_have_the_same_exact_amounts(data_dir: Path, tmp_path: Path) -> None:
    text = run(data_dir, "--by", "feature").stdout
    assert "4.000000000008" in text
    assert "1 attempts were settled without a price" in text
    lines = list(csv.DictReader(io.StringIO(run(data_dir, "--by", "feature", "--csv").stdout)))
    assert [(line["feature"], line["cost"]) for line in lines] == [
        ("search", "3.000000000008"),
        ("feed", "1"),
        ("'=x", "0"),
    ]
    target = tmp_path / "lines.parquet"
    assert run(data_dir, "--by", "feature", "--parquet", str(target)).exit_code == 0
    read = pq.read_table(target)
    assert read.schema.field("cost").type == pa.decimal128(38, 12)
    assert read.column("cost").to_pylist()[:2] == [Decimal("3.000000000008"), Decimal(1)]


def test_by_meter(data_dir: Path) -> None:
    page = run_json(data_dir, "--by", "meter,tenant", "--tenant", "acme")
    found = {line["meter"]: (line["quantity"], line["cost"]) for line in page["lines"]}
    assert found == {"input": (200, "0"), "output": (40, "0"), "unmetered": (0, "4.000000000008")}
    assert "unmetered" in run(data_dir, "--by", "meter").stdout


def test_another_currency_names_its_rate(data_dir: Path, tmp_path: Path) -> None:
    rates = tmp_path / "rates.toml"
    rates.write_text('base = "USD"\n[[rate]]\ncurrency = "IDR"\nrate = "16000"\ndate = 2026-01-01\nsource = "bank"\n')
    options = ("--currency", "idr", "--rates", str(rates), "--to", "2026-11-30")
    page = run_json(data_dir, *options)
    assert page["converted_total"] == "64000.000000016"
    assert page["rates"][0]["source"] == "bank"
    assert "64.000" in run(data_dir, *options).stdout
    assert "bank" in run(data_dir, *options).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "colour"), "split by colour"),
        (("--period", "2026"), "write a month"),
        (("--period", "2026-11", "--from", "2026-11-01"), "not both"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(data_dir: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(data_dir, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    assert "Nothing is posted in this time." in run(tmp_path).stdout
    assert run(tmp_path, "--csv").stdout == "\n"
    assert run_json(tmp_path)["lines"] == []
