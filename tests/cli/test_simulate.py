"""`upeti simulate month`: books of a month that never was, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from upeti.cli.main import main
from upeti.control.books import Books
from upeti.control.store import Store
from upeti.core.amount import decimal_text, parse_pico
from upeti.money.ledger import Account, Batch, BatchKind, balances, check_balance, sealed
from upeti.money.usage import meter_costs


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulated") / "story"
    assert run("simulate", "month", str(directory), "--samples", "3000", "--seed", "7") == 0
    return directory


def test_the_month_is_in_the_books(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "month", str(tmp_path / "again"), "--samples", "3000", "--seed", "7", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    books = Books(Store(story / "data"))
    assert books.batches()[-1].hash == Books(Store(tmp_path / "again" / "data")).batches()[-1].hash
    batches, rows = books.batches(), books.usage()
    assert len(batches) == made["batches"] == 31
    assert {batch.reference for batch in batches} == {"simulation, seed 7"}
    assert {(batch.instance, batch.segment) for batch in batches} == {("", -1)}
    previous = batches[0].previous
    for batch in batches:
        check_balance(batch.postings)
        assert sealed(batch, previous) == batch
        previous = batch.hash
    assert (
        made["tenants"]["short-video"]["calls"]
        == sum(row.calls for row in rows if row.tenant == "short-video")
        == 8_300_000_000
    )
    cost_pico = sum(row.cost_pico for row in rows)
    assert cost_pico > 2**64
    folded = balances(posting for batch in batches for posting in batch.postings)
    assert folded[Account.MODEL_COST, "USD"] == cost_pico
    estimated_pico = sum(row.cost_pico for row in rows if row.outcome == "estimated")
    assert folded[Account.PROVIDER_ESTIMATED, "USD"] == -estimated_pico < 0
    for row in rows:
        price = books.price(row.price_id)
        assert sum(part.cost_pico for part in meter_costs(row, price)) == row.cost_pico
        assert price is not None or row.outcome == "voided"


def test_the_suppliers_of_the_month(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ("--config", str(story / "upeti.toml"))
    wholes = ("--denominators", str(story / "denominators.toml"))
    assert run("concentration", "--json", *config, *wholes, "--currency", "IDR", "--plot", str(story / "plot.svg")) == 0
    report = json.loads(capsys.readouterr().out)
    spend = report["levels"]["parent"]["spend"]
    rows = Books(Store(story / "data")).usage()
    assert spend["total"] == decimal_text(16_100 * sum(row.cost_pico for row in rows))
    assert spend["shares"][0]["name"] == "Microsoft Corporation"
    assert len(report["levels"]["channel"]["spend"]["shares"]) == 4
    stress = report["largest_leaves"]
    assert 0 < stress["calls_without_another_party"] < stress["calls"]
    assert {one["route"] for one in stress["routes"] if one["no_other_party"]} == {"rank", "vision", "embed"}
    assert report["rates"][0]["rate"] == "16100"
    assert (story / "plot.svg").stat().st_size > 1000
    company = [one for one in report["denominators"] if one["scope"] == "company"]
    assert all(one["ten_percent"] is False for one in company)
    assert {one["name"] for one in report["denominators"] if one["scope"] == "line" and one["ten_percent"]}

    assert run("concentration", *config, *wholes) == 0
    shown = capsys.readouterr().out
    assert "If Microsoft Corporation leaves:" in shown
    assert "ASC 275-10-50-16: Microsoft Corporation: no percentage decides." in shown
    assert run("concentration", "--csv", "--by", "party", *config) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("side,level,name,measure")
    assert {line.split(",")[1] for line in lines} == {"party"}


def test_the_customers_of_the_month(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ("--config", str(story / "upeti.toml"))
    wholes = ("--denominators", str(story / "denominators.toml"))
    assert run("concentration", "--side", "customers", "--json", *config, *wholes, "--currency", "IDR") == 0
    report = json.loads(capsys.readouterr().out)
    revenue = report["levels"]["parent"]["revenue"]
    assert revenue["shares"][0]["name"] == "Video Group"
    assert 305 * 10**9 < parse_pico(revenue["shares"][0]["value"]) // 10**12 < 340 * 10**9  # of a small sample
    assert 24 < float(revenue["shares"][0]["share_percent"]) < 26
    group = [one for one in revenue["shares"] if one["name"] == "Samudra Group"]
    assert len(group) == 1
    assert len(report["levels"]["tenant"]["revenue"]["shares"]) == 10
    first = {one["scope"]: one["ten_percent"] for one in report["denominators"] if one["name"] == "Video Group"}
    assert first == {"line": True, "segment": False, "company": False}
    assert {one["asks"] for one in report["clauses"]} == {False}
    stress = report["largest_leaves"]["remains"]
    assert parse_pico(stress["revenue"]["after"]) == sum(parse_pico(one["value"]) for one in revenue["shares"][1:])
    assert stress["committed"] == {"before": "193200000000", "after": "0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--side", "rivals"], "there is no side `rivals`; choose suppliers or customers"),
        (["--by", "tenant"], "tenant is no level of this side; choose from channel, party, parent"),
    ],
)
def test_errors_name_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run("concentration", "--data-dir", str(tmp_path), *options) == 2
    assert message in capsys.readouterr().err


def test_nothing_was_settled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("concentration", "--data-dir", str(tmp_path)) == 0
    assert "Nothing has been settled in this time." in capsys.readouterr().out


def test_it_never_stands_beside_real_books(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run("simulate", "month", str(tmp_path)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run("simulate", "month", str(tmp_path / "new"), "--month", "2026-13") == 2
    assert "is no month" in capsys.readouterr().err


def test_the_ledger_says_that_it_never_was(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(story, directory)
    config = ("--config", str(directory / "upeti.toml"))
    assert run("ledger", "verify", *config) == 0
    shown = capsys.readouterr().out
    assert "simulation, seed 7: 31 batches of usage that never was; no journal stands behind them." in shown
    assert "The books are sound." in shown

    forged = Batch(number=0, kind=BatchKind.USAGE, at_ns=1, period="2026-11", reference="paid in full")
    assert Books(Store(directory / "data")).append(forged) is not None
    assert run("ledger", "verify", "--json", *config) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["where"]) == ("no journal", "batch 32")
